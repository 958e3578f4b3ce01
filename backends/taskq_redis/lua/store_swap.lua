-- Sets a key's value if it is the expected one; returns 1, or 0 when it was another.
-- KEYS: those of the key.
-- ARGV: time to live ('': the end stays as it was), 'has' or 'lacks' the expected value, it, 'set' or 'unset', the value.
local ttl, expects, old, sets, new = unpack(ARGV)
lapse()
local current = value()
if expects == 'has' and current ~= old or expects == 'lacks' and current then return 0 end
if sets == 'set' then redis.call('HSET', held_key, 'v', new) else redis.call('HDEL', held_key, 'v') end
if ttl ~= '' then redis.call('HSET', held_key, 'u', string.format('%.0f', now + tonumber(ttl))) end
keep()
return 1
