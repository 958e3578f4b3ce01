-- Adds all members to a key, or none; returns 1, or 0 when the key would then have more than the ceiling.
-- KEYS: those of the key.
-- ARGV: time to live of the members ('': for ever), the ceiling ('': none), packed members.
local ttl, ceiling, members = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
lapse()
local ends = ttl == '' and '+inf' or now + tonumber(ttl)
local adding, fresh, passed = {}, 0, {}
for number = 1, tonumber(redis.call('HGET', held_key, 'd') or 0) do
  for _, member in ipairs(cmsgpack.unpack(redis.call('HGET', held_key, 'd' .. number))) do passed[member] = true end
end
-- So many fit on Lua's stack.
for first = 1, #members, 1000 do
  local last = math.min(first + 999, #members)
  local gone = redis.call('ZMSCORE', gone_key, unpack(members, first, last))
  local there = redis.call('ZMSCORE', members_key, unpack(members, first, last))
  local part = {}
  for i = 1, last - first + 1 do
    local member = members[first + i - 1]
    if not passed[member] and not gone[i] then
      passed[member] = true
      part[#part + 1], part[#part + 2] = ends, member
      if not there[i] then fresh = fresh + 1 end
    end
  end
  if #part > 0 then adding[#adding + 1] = part end
end
if ceiling and redis.call('ZCARD', members_key) + fresh > ceiling then return 0 end
for _, part in ipairs(adding) do redis.call('ZADD', members_key, unpack(part)) end
keep()
return 1
