-- Stands before each script of a queue: its keys, its jobs' rows, and the moves of a job between its states.
--
-- KEYS of each queue, in this order, all under one hash tag, so that a script meets all of them or none:
--   row      hash  id → what changes about a job, packed (below)
--   call     hash  id → the call, packed by the client and never looked into
--   ready    zset  rank..id at score 0: due, in the order of fetches
--   later    zset  id by the moment it becomes due
--   leased   zset  id by the end of its lease
--   dead     zset  id by the moment the dead letter lapses
--   unique   hash  unique key → id of its holder
--   parked   zset  group..limit..rank..id at score 0: due members for whom their group has no place
--   places   hash  group → places taken
--   shown    hash  group → id of the member that stands in ready
--   error    hash  id → what the last nack with an error said
--   letter   hash  id → a dead letter's outcome
--   outcome  hash  id → an ended job's outcome
--   kept     zset  id by the moment its outcome lapses
--   ended    zset  id by the end of its dedup window
--   waiting  zset  'channel number' of fetches that found nothing, by the moment they stop counting on being told
--   keeper   string: the one of them that wakes up by itself when the next job becomes due
--   watched  hash  id → '|channel number' of everybody who waits for its outcome
-- No key that carries a job has a time to live. Moments and durations are whole microseconds of this server's clock.
local WIDTH = 18
local SOON = 3000000 -- a waiting fetch looks again at least this often, so nothing is told that is further away

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- A row: an array, so that it packs small. MORE is a map of what plain jobs lack, absent when empty:
-- u unique key, k unique_until, ku moment the key lapses, oc on_conflict, g group, l group_limit, p holds a place,
-- xi expires in, xa expires at, t tenant, c cancelled, e has an error.
local AT, TOKEN, ATTEMPT, LOSSES, FENCE, PRIORITY, DUE, SERIAL, TURN, MORE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local LATER, READY, PARKED, LEASED, DEAD = 'l', 'r', 'p', 'x', 'd'
local RANK = 23
local MIDDLE = 4503599627370496

local row_key, call_key, ready_key, later_key, leased_key, dead_key, unique_key, parked_key, places_key
local shown_key, error_key, letter_key, outcome_key, kept_key, ended_key, waiting_key, keeper_key, watched_key
local held, changed, groups, fresh, soonest

-- Turn to the queue of this number.
local function turn_to(queue)
  row_key, call_key, ready_key, later_key, leased_key, dead_key, unique_key, parked_key, places_key,
  shown_key, error_key, letter_key, outcome_key, kept_key, ended_key, waiting_key, keeper_key, watched_key
    = unpack(KEYS, queue * WIDTH + 1, queue * WIDTH + WIDTH)
  held, changed, groups, fresh, soonest = {}, {}, {}, false, nil
end

-- Rows

local function load(ids)
  local missing = {}
  for _, id in ipairs(ids) do
    if held[id] == nil then missing[#missing + 1] = id end
  end
  if #missing == 0 then return end
  local packed = redis.call('HMGET', row_key, unpack(missing))
  for i, id in ipairs(missing) do
    held[id] = packed[i] and cmsgpack.unpack(packed[i])
  end
end

local function row_of(id)
  if held[id] == nil then load({ id }) end
  return held[id]
end

local function pack(row)
  if row[MORE] and not next(row[MORE]) then row[MORE] = nil end
  return cmsgpack.pack(row)
end

-- Write what has changed; what ended is gone for good.
local function save()
  local kept, gone = {}, {}
  for id in pairs(changed) do
    local row = held[id]
    if row then
      kept[#kept + 1] = id
      kept[#kept + 1] = pack(row)
    else
      gone[#gone + 1] = id
    end
  end
  if #kept > 0 then redis.call('HSET', row_key, unpack(kept)) end
  if #gone > 0 then
    redis.call('HDEL', row_key, unpack(gone))
    redis.call('HDEL', call_key, unpack(gone))
    redis.call('HDEL', error_key, unpack(gone))
  end
  changed = {}
end

-- Larger priority first, then oldest due, then the order of the enqueues: as bytes that sort so.
local function rank_of(row)
  return struct.pack('>I7I7I7I2', MIDDLE - row[PRIORITY], row[DUE], row[SERIAL], row[TURN])
end

-- Numbers, because Lua compares strings by the server's locale.
local function goes_before(one, two)
  for _, field in ipairs({ DUE, SERIAL, TURN }) do
    if one[PRIORITY] ~= two[PRIORITY] then return one[PRIORITY] > two[PRIORITY] end
    if one[field] ~= two[field] then return one[field] < two[field] end
  end
  return false
end

-- Groups

local function group_of(row)
  return row[MORE] and row[MORE].g
end

local function limit_of(row)
  return row[MORE].l or 1
end

local function parked_prefix(group)
  return struct.pack('>I4', #group) .. group
end

local function parked_member(id, row)
  return parked_prefix(group_of(row)) .. struct.pack('>I7', limit_of(row)) .. rank_of(row) .. id
end

local function places_of(group)
  return tonumber(redis.call('HGET', places_key, group) or 0)
end

local function take_place(row)
  row[MORE].p = true
  redis.call('HINCRBY', places_key, group_of(row), 1)
  groups[group_of(row)] = true
end

local function release_place(row)
  local group = group_of(row)
  if not group or not row[MORE].p then return end
  row[MORE].p = nil
  if redis.call('HINCRBY', places_key, group, -1) == 0 then redis.call('HDEL', places_key, group) end
  groups[group] = true
end

-- The first of those members for whom this number of taken places leaves one: those of each limit are in order.
local function best_parked(group, places)
  local prefix, limit, best = parked_prefix(group), places + 1, nil
  while true do
    local from = '[' .. prefix .. struct.pack('>I7', limit)
    local head = redis.call('ZRANGE', parked_key, from, '(' .. prefix .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not head then return best end
    local id = string.sub(head, #prefix + 7 + RANK + 1)
    if not best or goes_before(row_of(id), row_of(best)) then best = id end
    limit = struct.unpack('>I7', head, #prefix + 1) + 1
  end
end

-- Let ready show the best member that may be leased now, so that those that wait cost a fetch nothing.
-- Returns its id when it was not shown before.
local function show(group)
  local places = places_of(group)
  local best, shown = best_parked(group, places), redis.call('HGET', shown_key, group)
  if shown then
    local row = row_of(shown)
    if limit_of(row) > places and not (best and goes_before(row_of(best), row)) then return nil end
    redis.call('ZREM', ready_key, rank_of(row) .. shown)
    redis.call('ZADD', parked_key, 0, parked_member(shown, row))
    redis.call('HDEL', shown_key, group)
    row[AT], changed[shown] = PARKED, true
  end
  if not best then return nil end
  local row = row_of(best)
  redis.call('ZREM', parked_key, parked_member(best, row))
  redis.call('ZADD', ready_key, 0, rank_of(row) .. best)
  redis.call('HSET', shown_key, group, best)
  row[AT], changed[best], fresh = READY, true, true
  return best
end

local function show_all()
  for group in pairs(groups) do show(group) end
  groups = {}
end

-- Standing in line

-- A due job stands in ready, or waits for a place in its group. A cancelled job will not run, so it needs none;
-- one that has started in order still holds its own.
local function line_up(id, row)
  local more = row[MORE]
  if more and more.g and not more.p and not more.c then
    row[AT] = PARKED
    redis.call('ZADD', parked_key, 0, parked_member(id, row))
    groups[more.g] = true
  else
    row[AT], fresh = READY, true
    redis.call('ZADD', ready_key, 0, rank_of(row) .. id)
  end
end

local function schedule(id, row)
  changed[id] = true
  if row[DUE] <= now then return line_up(id, row) end
  row[AT] = LATER
  if not soonest or row[DUE] < soonest then soonest = row[DUE] end
  redis.call('ZADD', later_key, row[DUE], id)
end

-- Take a job out of wherever it stands.
local function withdraw(id, row)
  local at, group = row[AT], group_of(row)
  if at == LEASED then redis.call('ZREM', leased_key, id)
  elseif at == LATER then redis.call('ZREM', later_key, id)
  elseif at == DEAD then redis.call('ZREM', dead_key, id)
  elseif at == PARKED then redis.call('ZREM', parked_key, parked_member(id, row))
  else
    redis.call('ZREM', ready_key, rank_of(row) .. id)
    if group and redis.call('HGET', shown_key, group) == id then redis.call('HDEL', shown_key, group) end
  end
  if group then groups[group] = true end
end

-- Ends

local function release_key(id, row)
  local key = row[MORE] and row[MORE].u
  if key and redis.call('HGET', unique_key, key) == id then redis.call('HDEL', unique_key, key) end
end

local function bury(id, row)
  withdraw(id, row)
  release_key(id, row)
  redis.call('HDEL', letter_key, id)
  held[id], changed[id] = false, true
end

local function forget_outcomes(ids)
  if #ids > 0 and redis.call('EXISTS', outcome_key) == 1 then
    redis.call('HDEL', outcome_key, unpack(ids))
    redis.call('ZREM', kept_key, unpack(ids))
  end
end

-- Carry out what time alone brings about. A thousand a call, so that no call blocks the server for long.
local function advance()
  local due = redis.call('ZRANGE', later_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)
  if #due > 0 then
    redis.call('ZREM', later_key, unpack(due))
    load(due)
    for _, id in ipairs(due) do schedule(id, held[id]) end
  end
  local lapsed = redis.call('ZRANGE', leased_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
  for i = 1, #lapsed, 2 do
    local id, row = lapsed[i], row_of(lapsed[i])
    redis.call('ZREM', leased_key, id)
    row[DUE] = tonumber(lapsed[i + 1])
    if group_of(row) and limit_of(row) > 1 then release_place(row) end
    schedule(id, row)
  end
  for _, id in ipairs(redis.call('ZRANGE', dead_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)) do
    bury(id, row_of(id))
  end
  forget_outcomes(redis.call('ZRANGE', kept_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000))
  redis.call('ZREMRANGEBYSCORE', ended_key, '-inf', now)
  show_all()
end

-- Telling

-- Channels of a cluster are heard on any of its nodes, and a node counts its own listeners only.
local function tell(member)
  local channel, number = string.match(member, '^(%S+) (%d+)$')
  return redis.call('PUBLISH', channel, number) > 0 or string.find(channel, ':cast:', 1, true)
end

-- Wake one waiting fetch: it wakes the next when it leaves jobs behind, so a job never wakes a herd.
local function wake()
  local first
  repeat
    first = redis.call('ZPOPMIN', waiting_key)
  until not first[1] or (tonumber(first[2]) > now and tell(first[1]))
end

-- Something becomes due at this moment: tell the fetch that keeps the time.
local function ring(moment)
  if moment > now + SOON then return end
  local keeper = redis.call('GET', keeper_key)
  if not keeper then return wake() end
  if not tell(keeper) then
    redis.call('DEL', keeper_key)
    wake()
  end
end

-- The end of a script that may have made jobs due.
local function finish()
  show_all()
  save()
  if fresh then wake() end
  if soonest then ring(soonest) end
end

-- A fetch waits no longer; what it would have noticed another one has to.
local function leave(member)
  redis.call('ZREM', waiting_key, member)
  local kept_time = redis.call('GET', keeper_key) == member
  if kept_time then redis.call('DEL', keeper_key) end
  if kept_time or redis.call('ZCARD', ready_key) > 0 then wake() end
end
