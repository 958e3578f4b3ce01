-- Stands before each script of a queue that looks at more than plain jobs: its keys, its jobs' rows, and the moves of a job between its states.
--
-- KEYS of each queue, in this order, all under one hash tag, so that a script meets all of them or none:
--   row      hash  id → where a job stands and all that changes about it (below)
--   call     hash  id → the call, packed by the client and never looked into
--   ready    zset  rank..id at score 0: due, in the order of fetches
--   later    zset  id by the moment it becomes due
--   leased   zset  id by the end of its lease
--   dead     zset  id by the moment the dead letter lapses
--   unique   hash  unique key → id of its holder
--   parked   zset  group..limit..rank..id at score 0: due members for whom their group has no place
--   places   hash  group → places taken
--   shown    hash  group → id of the member that stands in ready
--            (a tenant is a group called '\1' and its name, with a place for everybody, whose members take turns)
--   error    hash  id → what the last nack with an error said
--   letter   hash  id → a dead letter's outcome
--   outcome  hash  id → an ended job's outcome
--   kept     zset  id by the moment its outcome lapses
--   ended    zset  id by the end of its dedup window
--   waiting  zset  'channel number lease' of fetches that found nothing, by the moment they stop counting on being told;
--            with a lease that is not 0 they may be handed a job
--   keeper   string: the one of them that wakes up by itself when the next job becomes due, and until when it would not
--   watched  hash  id → '|channel number lease' of everybody who waits for its outcome
--   latest   string: since when the server has lost nothing that we know of, and when a fetch last looked here
--   lapsed   string: how many dead letters have lapsed and are gone
-- No key that carries a job has a time to live. Moments and durations are whole microseconds of this server's clock.
local WIDTH = 20
local EVERYBODY = MIDDLE -- the limit of a tenant

local key
local packed, held, changed, groups, touched, fresh, soonest

-- Turn to the queue of this number.
local function turn_to(queue)
  local k = queue * WIDTH
  key = {
    row = KEYS[k + 1], call = KEYS[k + 2], ready = KEYS[k + 3], later = KEYS[k + 4], leased = KEYS[k + 5],
    dead = KEYS[k + 6], unique = KEYS[k + 7], parked = KEYS[k + 8], places = KEYS[k + 9], shown = KEYS[k + 10],
    error = KEYS[k + 11], letter = KEYS[k + 12], outcome = KEYS[k + 13], kept = KEYS[k + 14], ended = KEYS[k + 15],
    waiting = KEYS[k + 16], keeper = KEYS[k + 17], watched = KEYS[k + 18],
    latest = KEYS[k + 19], lapsed = KEYS[k + 20],
  }
  packed, held, changed, groups, touched, fresh, soonest = {}, {}, {}, {}, {}, false, nil
end

-- Rows

-- Read rows, so that `packed` has their bytes, and false where there is none.
local function load(ids)
  if #ids == 0 then return end
  for i, row in ipairs(redis.call('HMGET', key.row, unpack(ids))) do
    if packed[ids[i]] == nil then packed[ids[i]] = row end
  end
end

-- A job's row as an array; false when there is no such job.
local function row_of(id)
  local row = held[id]
  if row ~= nil then return row end
  if packed[id] == nil then packed[id] = redis.call('HGET', key.row, id) end
  local bytes = packed[id]
  if bytes then
    local at, more, token, attempt, losses, fence, after = struct.unpack(HEAD, bytes)
    local priority, due, serial, turn = struct.unpack(RANKED, bytes, after)
    row = {
      at = at, token = token, attempt = attempt, losses = losses, fence = fence,
      priority = MIDDLE - priority, due = due, serial = serial, turn = turn,
    }
    if more == '+' then row.more = cmsgpack.unpack(string.sub(bytes, BEFORE + RANK + 1)) end
  end
  held[id] = row or false
  return held[id]
end

-- Since when a row stands in line, or would.
local function moment_of(row)
  return row.more and row.more.s or row.due
end

-- Larger priority first, then oldest due, then the order of the enqueues: as bytes that sort so.
local function rank_of(row, moment)
  return struct.pack(RANKED, MIDDLE - row.priority, moment or row.due, row.serial, row.turn)
end

-- Its member of ready.
local function ready_member(id, row)
  return rank_of(row, moment_of(row)) .. id
end

local function pack(row)
  local more = row.more and next(row.more) and cmsgpack.pack(row.more)
  local head = struct.pack(HEAD, row.at, more and '+' or '-', row.token, row.attempt, row.losses, row.fence)
  return head .. rank_of(row) .. (more or '')
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
  if #kept > 0 then redis.call('HSET', key.row, unpack(kept)) end
  if #gone > 0 then
    redis.call('HDEL', key.row, unpack(gone))
    redis.call('HDEL', key.call, unpack(gone))
    redis.call('HDEL', key.error, unpack(gone))
  end
  changed = {}
end

-- Numbers, because Lua compares strings by the server's locale.
local function goes_before(one, two)
  if one.priority ~= two.priority then return one.priority > two.priority end
  local first, second = moment_of(one), moment_of(two)
  if first ~= second then return first < second end
  if one.serial ~= two.serial then return one.serial < two.serial end
  return one.turn < two.turn
end

-- Groups

local function takes_turns(row)
  return row.more and row.more.t and not row.more.g
end

local function group_of(row)
  return takes_turns(row) and '\1' .. row.more.t or row.more and row.more.g
end

local function limit_of(row)
  return takes_turns(row) and EVERYBODY or row.more.l or 1
end

-- Whether a member that has come goes before the one that is shown, which keeps its turn if they take turns.
local function displaces(row, shown)
  if takes_turns(shown) then return row.priority > shown.priority end
  return goes_before(row, shown)
end

local turns = 0

-- Something of a group has changed: it may have another member to show.
local function touch(group)
  groups[group], touched[#touched + 1] = true, group
end

local function parked_prefix(group)
  return struct.pack('>I4', #group) .. group
end

local function parked_member(id, row)
  return parked_prefix(group_of(row)) .. struct.pack('>I8', limit_of(row)) .. rank_of(row) .. id
end

local function places_of(group)
  return tonumber(redis.call('HGET', key.places, group) or 0)
end

local function take_place(row)
  row.more.p = true
  redis.call('HINCRBY', key.places, group_of(row), 1)
  touch(group_of(row))
end

local function release_place(row)
  local group = group_of(row)
  if not group or not row.more.p then return end
  row.more.p = nil
  if redis.call('HINCRBY', key.places, group, -1) == 0 then redis.call('HDEL', key.places, group) end
  touch(group)
end

-- The first of those members for whom this number of taken places leaves one: those of each limit are in order.
local function best_parked(group, places)
  local prefix, limit, best = parked_prefix(group), places + 1, nil
  while true do
    local from = '[' .. prefix .. struct.pack('>I8', limit)
    local head = redis.call('ZRANGE', key.parked, from, '(' .. prefix .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not head then return best end
    local id = string.sub(head, #prefix + 8 + RANK + 1)
    if not best or goes_before(row_of(id), row_of(best)) then best = id end
    limit = struct.unpack('>I8', head, #prefix + 1) + 1
  end
end

-- Let ready show the best member that may be leased now, so that those that wait cost a fetch nothing.
-- Returns its id when it was not shown before.
local function show(group)
  local places = places_of(group)
  local best, shown = best_parked(group, places), redis.call('HGET', key.shown, group)
  if shown then
    local row = row_of(shown)
    if limit_of(row) > places and not (best and displaces(row_of(best), row)) then return nil end
    redis.call('ZREM', key.ready, ready_member(shown, row))
    row.more.s = nil
    redis.call('ZADD', key.parked, 0, parked_member(shown, row))
    redis.call('HDEL', key.shown, group)
    row.at, changed[shown] = 'p', true
  end
  if not best then return nil end
  local row = row_of(best)
  redis.call('ZREM', key.parked, parked_member(best, row))
  if takes_turns(row) then
    -- Behind all that stands in line.
    turns = turns + 1
    row.more.s = now + turns
  end
  redis.call('ZADD', key.ready, 0, ready_member(best, row))
  redis.call('HSET', key.shown, group, best)
  row.at, changed[best], fresh = 'r', true, true
  return best
end

-- In the order in which they were touched: tenants come to stand in line one after the other.
local function show_all()
  for _, group in ipairs(touched) do
    if groups[group] then show(group) end
    groups[group] = nil
  end
  touched = {}
end

-- Standing in line

-- A due job stands in ready, or waits for a place in its group. A cancelled job will not run, so it needs none;
-- one that has started in order still holds its own.
local function line_up(id, row)
  local more, group = row.more, group_of(row)
  if group and not more.p and not more.c then
    row.at = 'p'
    redis.call('ZADD', key.parked, 0, parked_member(id, row))
    touch(group)
  else
    row.at, fresh = 'r', true
    redis.call('ZADD', key.ready, 0, ready_member(id, row))
  end
end

local function schedule(id, row)
  changed[id] = true
  if row.due <= now then return line_up(id, row) end
  row.at = 'l'
  if not soonest or row.due < soonest then soonest = row.due end
  redis.call('ZADD', key.later, row.due, id)
end

-- Take a job out of wherever it stands.
local function withdraw(id, row)
  local at, group = row.at, group_of(row)
  if at == 'x' then redis.call('ZREM', key.leased, id)
  elseif at == 'l' then redis.call('ZREM', key.later, id)
  elseif at == 'd' then redis.call('ZREM', key.dead, id)
  elseif at == 'p' then redis.call('ZREM', key.parked, parked_member(id, row))
  else
    redis.call('ZREM', key.ready, ready_member(id, row))
    if group then
      if redis.call('HGET', key.shown, group) == id then redis.call('HDEL', key.shown, group) end
      row.more.s = nil
    end
  end
  if group then touch(group) end
end

-- Ends

local function release_key(id, row)
  local name = row.more and row.more.u
  if name and redis.call('HGET', key.unique, name) == id then redis.call('HDEL', key.unique, name) end
end

local function bury(id, row)
  withdraw(id, row)
  release_key(id, row)
  redis.call('HDEL', key.letter, id)
  held[id], changed[id] = false, true
end

-- Bury a dead letter whose time is over.
local function lapse(id, row)
  bury(id, row)
  redis.call('INCR', key.lapsed)
end

local function forget_outcomes(ids)
  if #ids > 0 and redis.call('EXISTS', key.outcome) == 1 then
    redis.call('HDEL', key.outcome, unpack(ids))
    redis.call('ZREM', key.kept, unpack(ids))
  end
end

local function advance_leases()
  local lapsed = redis.call('ZRANGE', key.leased, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
  for i = 1, #lapsed, 2 do
    local id, row = lapsed[i], row_of(lapsed[i])
    redis.call('ZREM', key.leased, id)
    row.due = tonumber(lapsed[i + 1])
    if group_of(row) and limit_of(row) > 1 then release_place(row) end
    schedule(id, row)
  end
end

-- Carry out what time alone brings about. A thousand a call, so that no call blocks the server for long.
local function advance()
  advance_leases()
  if redis.call('EXISTS', key.later, key.dead, key.kept, key.ended) == 0 then return show_all() end
  local due = redis.call('ZRANGE', key.later, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)
  if #due > 0 then
    redis.call('ZREM', key.later, unpack(due))
    load(due)
    for _, id in ipairs(due) do schedule(id, row_of(id)) end
  end
  for _, id in ipairs(redis.call('ZRANGE', key.dead, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)) do
    lapse(id, row_of(id))
  end
  forget_outcomes(redis.call('ZRANGE', key.kept, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000))
  redis.call('ZREMRANGEBYSCORE', key.ended, '-inf', now)
  show_all()
end

-- The end of a script that may have made jobs due.
local function finish()
  show_all()
  save()
  if fresh then wake(key.waiting) end
  if soonest then ring(key, soonest) end
end
