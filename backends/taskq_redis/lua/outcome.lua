-- Looks for a job's outcome; returns it, or nothing and has the caller told when the job ends.
-- KEYS: those of the queue.
-- ARGV: id, 'channel number' to be told on or '', for how long.
turn_to(0)
local id, member, patience = ARGV[1], ARGV[2], tonumber(ARGV[3])
local row = row_of(id)
if row and row[AT] == DEAD then
  if tonumber(redis.call('ZSCORE', dead_key, id)) > now then return redis.call('HGET', letter_key, id) end
elseif not row and tonumber(redis.call('ZSCORE', kept_key, id) or 0) > now then
  return redis.call('HGET', outcome_key, id)
end
if member ~= '' then
  local watchers = redis.call('HGET', watched_key, id) or ''
  if not string.find(watchers .. '|', '|' .. member .. '|', 1, true) then
    redis.call('HSET', watched_key, id, watchers .. '|' .. member)
  end
  if redis.call('PTTL', watched_key) < patience / 1000 then
    redis.call('PEXPIRE', watched_key, math.ceil(patience / 1000))
  end
end
return false
