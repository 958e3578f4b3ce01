-- Leases the best due jobs of queues, in order; returns the clock, the moment to look again at (0: none), how many
-- jobs of each queue, then id, row, call and error of each job, and of the first queue when a fetch looked here last
-- (0: not known), since when nothing was lost, and the moment of this look.
-- KEYS: those of each queue.
-- ARGV: limit, lease, token, patience (0: does not wait), 'channel number lease' of the fetch, '1' if it waits already,
-- for how long the moment of this look is kept, the moment of the last one that the caller knows of.
local limit, lease, token, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local member, waits = ARGV[5], ARGV[6] == '1'
local PORTION, MOST = 50, 4194304 -- jobs taken together, and bytes of calls after which no more are: others want the server
local reply, bytes = {}, 0

turn_to(0)
local before, since, latest = look(key.latest)

local taken = 0
-- What a plain job's first lease makes of its row, before the rank.
local leased = struct.pack(HEAD, 'x', '-', token, 1, 0, now)

-- Lease this job in memory; returns whom its group shows now instead.
local function deliver(id, row)
  local more = row.more
  if row.token ~= NONE then row.losses = row.losses + 1 end
  row.at, row.token, row.fence = 'x', token, math.max(now, row.fence + 1)
  if not more then return nil end
  if more.k == 'start' then release_key(id, row) end
  local group = group_of(row)
  if not group then return nil end
  if redis.call('HGET', key.shown, group) == id then redis.call('HDEL', key.shown, group) end
  more.s = nil
  if more.g and not more.p and not more.c then take_place(row) end
  groups[group] = nil
  return show(group)
end

-- Take up to so many from ready; returns how many.
local function take(count)
  local popped = redis.call('ZPOPMIN', key.ready, count)
  local ids = {}
  for i = 1, #popped, 2 do ids[#ids + 1] = string.sub(popped[i], RANK + 1) end
  load(ids)
  local leases, rows, got, next_shown = {}, {}, {}, nil
  for i, id in ipairs(ids) do
    local row
    if held[id] == nil and string.sub(packed[id], 2, BEFORE) == FRESH then
      row = leased .. string.sub(popped[2 * i - 1], 1, RANK)
    else
      local shown = deliver(id, row_of(id))
      if shown and not (next_shown and goes_before(row_of(next_shown), row_of(shown))) then next_shown = shown end
      row = pack(held[id])
      changed[id] = nil
    end
    got[i], leases[2 * i - 1], leases[2 * i] = id, now + lease, id
    rows[2 * i - 1], rows[2 * i] = id, row
    local following = next_shown and ids[i + 1]
    if following and goes_before(row_of(next_shown), row_of(following)) then
      for rest = i + 1, #ids do redis.call('ZADD', key.ready, 0, popped[2 * rest - 1]) end
      break
    end
  end
  if #got == 0 then return 0 end
  redis.call('ZADD', key.leased, unpack(leases))
  redis.call('HSET', key.row, unpack(rows))
  local calls = redis.call('HMGET', key.call, unpack(got))
  for i, id in ipairs(got) do
    local more, at = held[id] and held[id].more, #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = id, rows[2 * i], calls[i]
    bytes = bytes + #calls[i]
    reply[at + 4] = more and more.e and redis.call('HGET', key.error, id) or false
  end
  return #got
end

local queues = #KEYS / WIDTH
local counts, visited = {}, 0
for queue = 0, queues - 1 do
  counts[queue + 1] = 0
  if taken < limit and bytes <= MOST then
    turn_to(queue)
    visited = queue + 1
    advance()
    local got
    repeat
      got = take(math.min(limit - taken, PORTION))
      taken = taken + got
      counts[queue + 1] = counts[queue + 1] + got
    until got == 0 or taken == limit or bytes > MOST
    save()
    if counts[queue + 1] > 0 then
      -- There may be more for others to do.
      if redis.call('ZCARD', key.ready) > 0 then wake(key.waiting) end
      ring(key, now + lease)
    end
  end
end

local moment = 0
for queue = 0, queues - 1 do
  turn_to(queue)
  if taken > 0 then
    if waits then leave(key, member) end
  elseif patience > 0 then
    redis.call('ZADD', key.waiting, now + patience, member)
    redis.call('PEXPIRE', key.waiting, patience / 1000)
    -- One of all that wait keeps the time, so that a due moment wakes one.
    local keeper = keeper_and_rest(key)
    if not keeper or keeper == member then
      redis.call('SET', key.keeper, string.format('%s %.0f', member, now + patience), 'PX', patience / 1000)
      for _, name in ipairs({ key.later, key.leased }) do
        local head = tonumber(redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')[2])
        if head and (moment == 0 or head < moment) then moment = head end
      end
    end
  end
end
return { now, moment, counts, reply, before, since, latest }
