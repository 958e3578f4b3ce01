-- Counts the jobs of a queue; returns how many are later, ready, leased and dead, and since when the oldest is ready
-- as microseconds of waiting (0: none is).
-- KEYS: those of the queue.
turn_to(0)
local MOST = 1000 -- heads of lines to look at: one for each priority, and for each limit and priority of each group
local after = '(' .. string.format('%.0f', now)
local oldest = now

local function consider(due)
  if due and due < oldest then oldest = due end
end

-- The first of each run of members that share what is before their due moment; they are in order of it.
local function heads(key, width_of)
  local from = '-'
  for _ = 1, MOST do
    local head = redis.call('ZRANGE', key, from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not head then return end
    local width = width_of(head)
    consider(struct.unpack('>I7', head, width + 1))
    from = '(' .. string.sub(head, 1, width) .. '\255'
  end
end

heads(ready_key, function() return 7 end)
heads(parked_key, function(head) return 4 + struct.unpack('>I4', head) + 7 + 7 end)
for _, key in ipairs({ later_key, leased_key }) do
  consider(tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]))
end
local later, leased = redis.call('ZCOUNT', later_key, after, '+inf'), redis.call('ZCOUNT', leased_key, after, '+inf')
local lapsed = redis.call('ZCARD', later_key) - later + redis.call('ZCARD', leased_key) - leased
local ready = redis.call('ZCARD', ready_key) + redis.call('ZCARD', parked_key) + lapsed
return { later, ready, leased, redis.call('ZCOUNT', dead_key, after, '+inf'), now - oldest }
