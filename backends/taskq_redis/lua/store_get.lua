-- Reads a key; returns the clock, its value or nothing, and its members.
-- KEYS: those of the key.
local ends = tonumber(redis.call('HGET', held_key, 'u') or nil)
if ends and ends <= now then return { now, false, {} } end
return { now, value(), redis.call('ZRANGE', members_key, live, '+inf', 'BYSCORE') }
