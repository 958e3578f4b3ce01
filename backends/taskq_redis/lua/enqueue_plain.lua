-- Adds plain jobs that are due; returns 1, or 0 and has changed nothing where an id may be known: then `enqueue` is needed.
-- KEYS: row, call, ready, outcome, kept, ended and waiting of the queue.
-- ARGV: id and call of each job, no id twice.
-- Asked for together, because on a busy queue there is none of them.
local special = redis.call('EXISTS', KEYS[4], KEYS[6], KEYS[7]) > 0
if special and redis.call('EXISTS', KEYS[6]) == 1 then return 0 end
local before = struct.pack('>I8I8I8', MIDDLE, now, now)
local ids, rows, ready = {}, {}, {}
for i = 1, #ARGV, 2 do
  local id, rank = ARGV[i], before .. struct.pack('>I2', (i + 1) / 2)
  ids[#ids + 1] = id
  rows[i], rows[i + 1] = id, 'r' .. FRESH .. rank
  ready[i], ready[i + 1] = 0, rank .. id
end
for _, row in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
  if row then return 0 end
end
redis.call('HSET', KEYS[1], unpack(rows))
redis.call('HSET', KEYS[2], unpack(ARGV))
redis.call('ZADD', KEYS[3], unpack(ready))
if special then
  if redis.call('EXISTS', KEYS[4]) == 1 then
    redis.call('HDEL', KEYS[4], unpack(ids))
    redis.call('ZREM', KEYS[5], unpack(ids))
  end
  wake(KEYS[7])
end
return 1
