-- Stands before `moves` in `claim`, and is all of it where one queue has a few jobs, all of them plain, and time has brought about
-- nothing: so a job that wakes a worker starts 40 µs sooner. Where there is more to say nothing has changed.

-- A server that knows of no look as late as the caller does has lost what came after.
local function look(latest_key)
  local since, before = string.match(redis.call('GET', latest_key) or '', '(%d+) (%d+)')
  before = tonumber(before or 0)
  -- It never goes back, as this server's clock may.
  local latest = math.max(now, before + 1)
  since = before >= tonumber(ARGV[8]) and tonumber(since) or latest
  redis.call('SET', latest_key, string.format('%.0f %.0f', since, latest), 'PX', ARGV[7] / 1000)
  return before, since, latest
end

local function claim_plain()
  local FEW = 10
  local row, call, ready, leased = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
  if #KEYS > 20 or redis.call('EXISTS', KEYS[4], KEYS[6], KEYS[14], KEYS[15]) > 0 then return nil end
  if redis.call('ZRANGE', leased, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1] then return nil end
  local members = redis.call('ZRANGE', ready, 0, FEW)
  if #members == 0 or #members > math.min(FEW, ARGV[1]) then return nil end
  local ids, leases, rows, reply = {}, {}, {}, {}
  for i, member in ipairs(members) do ids[i] = string.sub(member, RANK + 1) end
  for _, bytes in ipairs(redis.call('HMGET', row, unpack(ids))) do
    if not bytes or string.sub(bytes, 2, BEFORE) ~= FRESH then return nil end
  end
  local before, since, latest = look(KEYS[19])
  local head = struct.pack(HEAD, 'x', '-', ARGV[3], 1, 0, now)
  for i, id in ipairs(ids) do
    leases[2 * i - 1], leases[2 * i] = now + ARGV[2], id
    rows[2 * i - 1], rows[2 * i] = id, head .. string.sub(members[i], 1, RANK)
  end
  redis.call('ZREM', ready, unpack(members))
  redis.call('ZADD', leased, unpack(leases))
  redis.call('HSET', row, unpack(rows))
  for i, bytes in ipairs(redis.call('HMGET', call, unpack(ids))) do
    reply[4 * i - 3], reply[4 * i - 2], reply[4 * i - 1], reply[4 * i] = ids[i], rows[2 * i], bytes, false
  end
  local key = { ready = ready, waiting = KEYS[16], keeper = KEYS[17] }
  ring(key, now + ARGV[2])
  if ARGV[6] == '1' then leave(key, ARGV[5]) end
  return { now, 0, { #ids }, reply, before, since, latest }
end

local claimed = claim_plain()
if claimed then return claimed end
