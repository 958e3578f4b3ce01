-- Removes members of a key for good; returns how many are left.
-- KEYS: those of the key.
-- ARGV[1]: packed members.
lapse()
local members = cmsgpack.unpack(ARGV[1])
-- A call for each member would cost 5 µs each; so many fit on Lua's stack.
for first = 1, #members, 1000 do
  local last = math.min(first + 999, #members)
  local leaving, gone = {}, {}
  for i, ends in ipairs(redis.call('ZMSCORE', members_key, unpack(members, first, last))) do
    if ends then
      local member = members[first + i - 1]
      leaving[#leaving + 1] = member
      gone[#gone + 1], gone[#gone + 2] = ends, member
    end
  end
  if #leaving > 0 then
    redis.call('ZREM', members_key, unpack(leaving))
    redis.call('ZADD', gone_key, unpack(gone))
  end
end
local left = redis.call('ZCARD', members_key)
keep()
return left
