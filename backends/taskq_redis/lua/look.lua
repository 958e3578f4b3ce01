-- Looks at jobs by their ids and changes nothing; returns the clock and, for each that is there, id, row, call, error,
-- a dead letter's outcome, and the end of its lease.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
local found = {}
for _, id in ipairs(ARGV) do
  local row = row_of(id)
  if row and not (row[AT] == DEAD and tonumber(redis.call('ZSCORE', dead_key, id)) <= now) then
    found[#found + 1] = {
      id,
      redis.call('HGET', row_key, id),
      redis.call('HGET', call_key, id),
      redis.call('HGET', error_key, id),
      redis.call('HGET', letter_key, id),
      redis.call('ZSCORE', leased_key, id),
    }
  end
end
return { now, found }
