-- Ends leases; returns a string with '1' for each settlement and '0' where its receipt was void.
-- KEYS: those of the queue.
-- ARGV[1]: packed settlements: {id, token} acks, {id, token, 'ack', outcome, keep}, {id, token, 'nack', after, counted,
--   error}, {id, token, 'dead', outcome, keep}; a negative keep is for ever. ARGV[2]: the dedup window.
local ID, GIVEN, KIND = 1, 2, 3
turn_to(0)
local settlements, window = cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2])
local answers, leases, ended, acked, outcomes, ends = {}, {}, {}, {}, {}, {}

local function ack(id, row, outcome, keep)
  release_place(row)
  release_key(id, row)
  held[id], changed[id] = false, true
  ended[#ended + 1] = id
  if not outcome or keep == 0 then
    acked[#acked + 1] = id
    return
  end
  outcomes[#outcomes + 1] = id
  outcomes[#outcomes + 1] = outcome
  ends[#ends + 1] = keep < 0 and '+inf' or now + keep
  ends[#ends + 1] = id
end

local function nack(id, row, after, counted, problem)
  if counted then row[ATTEMPT] = row[ATTEMPT] + 1 end
  if problem then
    row[MORE] = row[MORE] or {}
    row[MORE].e = true
    redis.call('HSET', error_key, id, problem)
  end
  row[DUE] = now + after
  if group_of(row) and limit_of(row) > 1 then release_place(row) end
  schedule(id, row)
end

local function set_aside(id, row, outcome, keep)
  release_place(row)
  if not (row[MORE] and row[MORE].k == 'success') then release_key(id, row) end
  row[AT], row[DUE], changed[id] = DEAD, now, true
  ended[#ended + 1] = id
  redis.call('HSET', letter_key, id, outcome)
  redis.call('ZADD', dead_key, keep < 0 and '+inf' or now + keep, id)
end

local ids = {}
for i, settlement in ipairs(settlements) do ids[i] = settlement[ID] end
load(ids)
for i, settlement in ipairs(settlements) do
  local id, kind = settlement[ID], settlement[KIND]
  local row = held[id]
  if row and row[TOKEN] ~= '' and row[TOKEN] == settlement[GIVEN] then
    answers[i], row[TOKEN] = '1', ''
    if row[AT] == LEASED then leases[#leases + 1] = id else withdraw(id, row) end
    if kind == 'nack' then nack(id, row, settlement[4], settlement[5], settlement[6])
    elseif kind == 'dead' then set_aside(id, row, settlement[4], settlement[5])
    else ack(id, row, settlement[4], settlement[5]) end
  else
    answers[i] = '0'
  end
end
if #leases > 0 then redis.call('ZREM', leased_key, unpack(leases)) end
forget_outcomes(acked)
if #outcomes > 0 then
  redis.call('HSET', outcome_key, unpack(outcomes))
  redis.call('ZADD', kept_key, unpack(ends))
  -- They carry no job, so they may go with the last of them, even if nobody ever looks at this queue again.
  local last = redis.call('ZRANGE', kept_key, -1, -1, 'WITHSCORES')[2]
  for _, key in ipairs({ outcome_key, kept_key }) do
    if last == 'inf' then redis.call('PERSIST', key)
    else redis.call('PEXPIREAT', key, math.ceil(tonumber(last) / 1000)) end
  end
end
if window > 0 and #ended > 0 then
  for _, id in ipairs(ended) do redis.call('ZADD', ended_key, now + window, id) end
  redis.call('PEXPIRE', ended_key, math.ceil(window / 1000))
end
if #ended > 0 and redis.call('EXISTS', watched_key) == 1 then
  for i, watchers in ipairs(redis.call('HMGET', watched_key, unpack(ended))) do
    for member in string.gmatch(watchers or '', '[^|]+') do tell(member) end
    redis.call('HDEL', watched_key, ended[i])
  end
end
finish()
return table.concat(answers)
