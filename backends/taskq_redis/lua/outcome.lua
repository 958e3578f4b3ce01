-- Looks for a job's outcome; returns it, or nothing and has the caller told when the job ends.
-- KEYS: those of the queue.
-- ARGV: id, 'channel number lease' to be told on or '', for how long.
turn_to(0)
local id, member, patience = ARGV[1], ARGV[2], tonumber(ARGV[3])
local row = row_of(id)
if row and row.at == 'd' then
  if tonumber(redis.call('ZSCORE', key.dead, id)) > now then return redis.call('HGET', key.letter, id) end
elseif not row and tonumber(redis.call('ZSCORE', key.kept, id) or 0) > now then
  return redis.call('HGET', key.outcome, id)
end
if member ~= '' then
  local watchers = redis.call('HGET', key.watched, id) or ''
  if not string.find(watchers .. '|', '|' .. member .. '|', 1, true) then
    redis.call('HSET', key.watched, id, watchers .. '|' .. member)
  end
  if redis.call('PTTL', key.watched) < patience / 1000 then
    redis.call('PEXPIRE', key.watched, math.ceil(patience / 1000))
  end
end
return false
