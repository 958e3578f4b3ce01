-- Removes members of a key for good; returns how many are left.
-- KEYS: those of the key.
-- ARGV[1]: packed members.
lapse()
for _, member in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ends = redis.call('ZSCORE', members_key, member)
  if ends then
    redis.call('ZREM', members_key, member)
    redis.call('ZADD', gone_key, ends, member)
  end
end
local left = redis.call('ZCARD', members_key)
keep()
return left
