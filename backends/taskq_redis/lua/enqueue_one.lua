-- Adds a plain job that is due, and hands it to a fetch that waits if nothing stands before it; returns what `enqueue_plain` does.
-- KEYS: row, call, ready, outcome, kept, ended, waiting, keeper, later and leased of the queue.
-- ARGV: id and call.
local row, call, ready, outcome, kept, ended, waiting, keeper, later, leased = unpack(KEYS)
local id = ARGV[1]
local rank = struct.pack(RANKED, MIDDLE, now, now, 1)
-- Asked for together, because on a busy queue there is none of them.
local special = redis.call('EXISTS', outcome, ended, waiting) > 0
if special and redis.call('EXISTS', ended) == 1 then return 0 end
if redis.call('HSETNX', row, id, 'r' .. FRESH .. rank) == 0 then return 0 end
redis.call('HSET', call, id, ARGV[2])
redis.call('ZADD', ready, 0, rank .. id)
if not special then return 1 end

-- The message is the claim's answer: a fetch that would have to ask starts the job a round trip later.
local function hand(member)
  local lease = tonumber(string.match(member, '%d+$'))
  if lease == 0 then return tell(member) end
  -- As random as the channel's name, and never the same again.
  local token = string.sub(redis.sha1hex(member .. rank .. id), 1, 16)
  local bytes = struct.pack(HEAD, 'x', '-', token, 1, 0, now) .. rank
  if not tell(member, ' ' .. struct.pack('>I8I4', now, #id) .. id .. bytes .. ARGV[2]) then return false end
  redis.call('ZREM', ready, rank .. id)
  redis.call('ZADD', leased, now + lease, id)
  redis.call('HSET', row, id, bytes)
  ring({ waiting = waiting, keeper = keeper }, now + lease, member)
  return true
end

local function is_due(line)
  return redis.call('ZCOUNT', line, '-inf', now) > 0
end

if redis.call('HDEL', outcome, id) == 1 then redis.call('ZREM', kept, id) end
wake(waiting, not (redis.call('ZCARD', ready) > 1 or is_due(later) or is_due(leased)) and hand or tell)
return 1
