-- Adds jobs to a queue; returns index, what ('known', 'holder' or 'conflict') and whose id of those that were not added.
-- KEYS: those of the queue.
-- ARGV[1]: packed jobs, each {id, call, priority, delay, run_at, more}; a plain one ends after the call.
local ID, CALL, JOB_PRIORITY, DELAY, RUN_AT, JOB_MORE = 1, 2, 3, 4, 5, 6
turn_to(0)
local jobs = cmsgpack.unpack(ARGV[1])
local ending = redis.call('EXISTS', key.ended) == 1
local answers, added, calls, plain, rows = {}, {}, {}, {}, {}

local function answer(turn, what, id)
  answers[#answers + 1] = turn - 1
  answers[#answers + 1] = what
  answers[#answers + 1] = id
end

local function has_lapsed(id, row)
  return row.at == 'd' and tonumber(redis.call('ZSCORE', key.dead, id)) <= now
end

local function is_known(id)
  if held[id] == nil and not packed[id] then return false end
  local row = row_of(id)
  if row and has_lapsed(id, row) then lapse(id, row) end
  return held[id]
end

local function is_ended(id)
  return tonumber(redis.call('ZSCORE', key.ended, id) or 0) > now
end

local function holder_of(name)
  local id = redis.call('HGET', key.unique, name)
  local row = id and row_of(id)
  if not row or (row.more.ku or now + 1) <= now then return nil end
  if has_lapsed(id, row) then
    lapse(id, row)
    return nil
  end
  return id, row
end

local function due_of(job)
  return job[RUN_AT] and math.max(now, job[RUN_AT]) or now + (job[DELAY] or 0)
end

-- A holder with a token may still be settled late, and a cancelled one will not run: neither may take over a call
-- that would be lost with it.
local function defer_to(turn, job, id, row)
  local conflict = job[JOB_MORE].oc
  if conflict == 'replace' and row.token == NONE and not row.more.c and row.at ~= 'd' then
    withdraw(id, row)
    row.priority, row.due = job[JOB_PRIORITY], due_of(job)
    row.more.xi = job[JOB_MORE].xi
    row.more.xa = job[JOB_MORE].xi and row.due + job[JOB_MORE].xi
    redis.call('HSET', key.call, id, job[CALL])
    schedule(id, row)
    conflict = nil
  end
  answer(turn, conflict and 'conflict' or 'holder', id)
end

-- Most jobs are plain and due: they are written together.
local function add_plain(turn, id)
  local rank = struct.pack(RANKED, MIDDLE, now, now, turn)
  local row = 'r' .. FRESH .. rank
  packed[id], held[id] = row, nil
  rows[#rows + 1] = id
  rows[#rows + 1] = row
  plain[#plain + 1] = 0
  plain[#plain + 1] = rank .. id
end

local function add(turn, job)
  local id, more = job[ID], job[JOB_MORE]
  added[#added + 1] = id
  calls[#calls + 1] = id
  calls[#calls + 1] = job[CALL]
  if not job[JOB_PRIORITY] and held[id] == nil then return add_plain(turn, id) end
  local row = {
    at = 'r', token = NONE, attempt = 1, losses = 0, fence = 0,
    priority = job[JOB_PRIORITY] or 0, due = due_of(job), serial = now, turn = turn, more = more,
  }
  held[id], changed[id] = row, true
  if more and more.xi then more.xa = row.due + more.xi end
  if more and more.u then
    if type(more.k) == 'number' then more.ku = now + math.floor(more.k * 1000000) end
    redis.call('HSET', key.unique, more.u, id)
  end
  schedule(id, row)
end

local ids = {}
for turn, job in ipairs(jobs) do ids[turn] = job[ID] end
load(ids)
for turn, job in ipairs(jobs) do
  local id, row
  if is_known(job[ID]) or ending and is_ended(job[ID]) then
    answer(turn, 'known', job[ID])
  else
    if job[JOB_MORE] and job[JOB_MORE].u then id, row = holder_of(job[JOB_MORE].u) end
    if id then defer_to(turn, job, id, row) else add(turn, job) end
  end
end
-- Before the calls are written: what was buried may have come back under its own id.
forget_outcomes(added)
if #plain > 0 then
  redis.call('HSET', key.row, unpack(rows))
  redis.call('ZADD', key.ready, unpack(plain))
  fresh = true
end
finish()
if #calls > 0 then redis.call('HSET', key.call, unpack(calls)) end
return answers
