-- Stands before `moves`: who is told of what. Of a queue's keys it needs ready, waiting and keeper.

local function keeper_and_rest(key)
  return string.match(redis.call('GET', key.keeper) or '', '^(%S+ %d+ %d+) (%d+)$')
end

-- Something becomes due at this moment: tell the fetch that keeps the time, if it would not look before and is not gone.
local function ring(key, moment, gone)
  local keeper, rest = keeper_and_rest(key)
  if keeper and keeper ~= gone and (moment > tonumber(rest) or tell(keeper)) then return end
  if keeper then redis.call('DEL', key.keeper) end
  wake(key.waiting)
end

-- A fetch waits no longer; what it would have noticed another one has to.
local function leave(key, member)
  redis.call('ZREM', key.waiting, member)
  local kept_time = keeper_and_rest(key) == member
  if kept_time then redis.call('DEL', key.keeper) end
  if kept_time or redis.call('ZCARD', key.ready) > 0 then wake(key.waiting) end
end
