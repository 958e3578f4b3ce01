-- Stands before each script of the store: one key, as it is now, and what remains of it afterwards.
--
-- KEYS, all under one hash tag:
--   held     hash  v → the value, u → the moment the whole key ends, d → how often many members were discarded at once,
--                  who would never have lapsed, d1 … → who that was, packed: they cannot come back either
--   members  zset  member by the moment it lapses, +inf for never
--   gone     zset  discarded member by the moment it would have lapsed: until then it cannot come back
-- Moments and durations are whole microseconds of this server's clock.
local held_key, members_key, gone_key = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local live = '(' .. string.format('%.0f', now)

local function value()
  return redis.call('HGET', held_key, 'v')
end

local function remove()
  redis.call('DEL', held_key, members_key, gone_key)
end

-- Let go of what has lapsed. The server's own expiry would do it too, but a millisecond late.
local function lapse()
  local ends = tonumber(redis.call('HGET', held_key, 'u') or nil)
  if ends and ends <= now then return remove() end
  redis.call('ZREMRANGEBYSCORE', members_key, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', gone_key, '-inf', now)
end

-- Keep the key if it holds anything, and have the server drop it when nothing in it is left.
local function keep()
  local last = redis.call('ZRANGE', members_key, -1, -1, 'WITHSCORES')[2]
  local has_value = value()
  if not has_value and not last then return remove() end
  local ends = redis.call('HGET', held_key, 'u')
  if not ends and not has_value and last ~= 'inf' then ends = last end
  for _, key in ipairs(KEYS) do
    if ends then redis.call('PEXPIREAT', key, string.format('%.0f', math.ceil(tonumber(ends) / 1000)))
    else redis.call('PERSIST', key) end
  end
end
