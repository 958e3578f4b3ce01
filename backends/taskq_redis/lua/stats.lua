-- Counts the jobs of a queue; returns how many are later, ready, leased and dead, and since when the oldest is ready
-- as microseconds of waiting (0: none is; of the one that a tenant shows it is since its turn came), and how many dead
-- letters have lapsed.
-- KEYS: those of the queue.
turn_to(0)
local MOST = 1000 -- heads of lines to look at: one for each priority, and for each limit and priority of each group
local after = '(' .. string.format('%.0f', now)
local oldest = now

local function consider(due)
  if due and due < oldest then oldest = due end
end

-- The first of each run of members that share what is before their due moment; they are in order of it.
local function heads(name, width_of)
  local from = '-'
  for _ = 1, MOST do
    local head = redis.call('ZRANGE', name, from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not head then return end
    local width = width_of(head)
    consider(struct.unpack('>I8', head, width + 1))
    from = '(' .. string.sub(head, 1, width) .. '\255'
  end
end

heads(key.ready, function() return 8 end)
heads(key.parked, function(head) return 4 + struct.unpack('>I4', head) + 8 + 8 end)
for _, name in ipairs({ key.later, key.leased }) do
  consider(tonumber(redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')[2]))
end
local later, leased = redis.call('ZCOUNT', key.later, after, '+inf'), redis.call('ZCOUNT', key.leased, after, '+inf')
local lapsed = redis.call('ZCARD', key.later) - later + redis.call('ZCARD', key.leased) - leased
local ready = redis.call('ZCARD', key.ready) + redis.call('ZCARD', key.parked) + lapsed
local dead = redis.call('ZCOUNT', key.dead, after, '+inf')
local gone = tonumber(redis.call('GET', key.lapsed) or 0) + redis.call('ZCARD', key.dead) - dead
return { later, ready, leased, dead, now - oldest, gone }
