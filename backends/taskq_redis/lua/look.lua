-- Looks at jobs by their ids and changes nothing; returns the clock and, for each that is there, id, row, call, error,
-- a dead letter's outcome, and the end of its lease.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
local found = {}
for _, id in ipairs(ARGV) do
  local row = row_of(id)
  if row and not (row.at == 'd' and tonumber(redis.call('ZSCORE', key.dead, id)) <= now) then
    found[#found + 1] = {
      id,
      redis.call('HGET', key.row, id),
      redis.call('HGET', key.call, id),
      redis.call('HGET', key.error, id),
      redis.call('HGET', key.letter, id),
      redis.call('ZSCORE', key.leased, id),
    }
  end
end
return { now, found }
