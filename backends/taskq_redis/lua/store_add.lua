-- Adds all members to a key, or none; returns 1, or 0 when the key would then have more than the ceiling.
-- KEYS: those of the key.
-- ARGV: time to live of the members ('': for ever), the ceiling ('': none), packed members.
local ttl, ceiling, members = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
lapse()
local adding, fresh = {}, 0
local seen = {}
for _, member in ipairs(members) do
  if not seen[member] and not is_gone(member) then
    seen[member] = true
    adding[#adding + 1] = member
    if not redis.call('ZSCORE', members_key, member) then fresh = fresh + 1 end
  end
end
if ceiling and redis.call('ZCARD', members_key) + fresh > ceiling then return 0 end
local ends = ttl == '' and '+inf' or now + tonumber(ttl)
for _, member in ipairs(adding) do redis.call('ZADD', members_key, ends, member) end
keep()
return 1
