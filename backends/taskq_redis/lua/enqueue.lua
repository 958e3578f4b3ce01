-- Adds jobs to a queue; returns index, what ('known', 'holder' or 'conflict') and whose id of those that were not added.
-- KEYS: those of the queue.
-- ARGV[1]: packed jobs, each {id, call, priority, delay, run_at, more}; a plain one ends after the call.
local ID, CALL, JOB_PRIORITY, DELAY, RUN_AT, JOB_MORE = 1, 2, 3, 4, 5, 6
turn_to(0)
local jobs = cmsgpack.unpack(ARGV[1])
local ending = redis.call('EXISTS', ended_key) == 1
local answers, added, calls, plain = {}, {}, {}, {}

local function answer(turn, what, id)
  answers[#answers + 1] = turn - 1
  answers[#answers + 1] = what
  answers[#answers + 1] = id
end

local function has_lapsed(id, row)
  return row[AT] == DEAD and tonumber(redis.call('ZSCORE', dead_key, id)) <= now
end

local function is_known(id)
  local row = held[id]
  if row and has_lapsed(id, row) then bury(id, row) end
  if held[id] then return true end
  return ending and tonumber(redis.call('ZSCORE', ended_key, id) or 0) > now
end

local function holder_of(key)
  local id = redis.call('HGET', unique_key, key)
  local row = id and row_of(id)
  if not row or (row[MORE].ku or now + 1) <= now then return nil end
  if has_lapsed(id, row) then
    bury(id, row)
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
  if conflict == 'replace' and row[TOKEN] == '' and not row[MORE].c and row[AT] ~= DEAD then
    withdraw(id, row)
    row[PRIORITY], row[DUE] = job[JOB_PRIORITY], due_of(job)
    row[MORE].xi = job[JOB_MORE].xi
    row[MORE].xa = job[JOB_MORE].xi and row[DUE] + job[JOB_MORE].xi
    redis.call('HSET', call_key, id, job[CALL])
    schedule(id, row)
    conflict = nil
  end
  answer(turn, conflict and 'conflict' or 'holder', id)
end

local function add(turn, job)
  local id, more = job[ID], job[JOB_MORE]
  local row = { READY, '', 1, 0, 0, job[JOB_PRIORITY] or 0, due_of(job), now, turn, more }
  held[id], changed[id] = row, true
  added[#added + 1] = id
  calls[#calls + 1] = id
  calls[#calls + 1] = job[CALL]
  if more and more.xi then more.xa = row[DUE] + more.xi end
  if more and more.u then
    if type(more.k) == 'number' then more.ku = now + math.floor(more.k * 1000000) end
    redis.call('HSET', unique_key, more.u, id)
  end
  if more or row[DUE] > now then return schedule(id, row) end
  plain[#plain + 1] = 0
  plain[#plain + 1] = rank_of(row) .. id
end

local ids = {}
for turn, job in ipairs(jobs) do ids[turn] = job[ID] end
load(ids)
for turn, job in ipairs(jobs) do
  local id, row
  if is_known(job[ID]) then
    answer(turn, 'known', job[ID])
  else
    if job[JOB_MORE] and job[JOB_MORE].u then id, row = holder_of(job[JOB_MORE].u) end
    if id then defer_to(turn, job, id, row) else add(turn, job) end
  end
end
-- Before the calls are written: what was buried may have come back under its own id.
forget_outcomes(added)
if #plain > 0 then
  redis.call('ZADD', ready_key, unpack(plain))
  fresh = true
end
finish()
if #calls > 0 then redis.call('HSET', call_key, unpack(calls)) end
return answers
