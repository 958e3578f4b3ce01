-- Ends leases; returns a string with '1' for each settlement and '0' where its receipt was void.
-- KEYS: those of the queue.
-- ARGV[1]: packed settlements: {id, token} acks, {id, token, 'ack', outcome, keep}, {id, token, 'nack', after, counted,
--   error}, {id, token, 'dead', outcome, keep}, {id, token, 'back'} to its old place; a negative keep is for ever.
-- ARGV[2]: the dedup window.
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
  if counted then row.attempt = row.attempt + 1 end
  if problem then
    row.more = row.more or {}
    row.more.e = true
    redis.call('HSET', key.error, id, problem)
  end
  row.due = now + after
  if group_of(row) and limit_of(row) > 1 then release_place(row) end
  schedule(id, row)
end

local function set_aside(id, row, outcome, keep)
  release_place(row)
  if not (row.more and row.more.k == 'success') then release_key(id, row) end
  row.at, row.due, changed[id] = 'd', now, true
  ended[#ended + 1] = id
  redis.call('HSET', key.letter, id, outcome)
  redis.call('ZADD', key.dead, keep < 0 and '+inf' or now + keep, id)
end

local ids = {}
for i, settlement in ipairs(settlements) do ids[i] = settlement[ID] end
load(ids)
for i, settlement in ipairs(settlements) do
  local id, kind = settlement[ID], settlement[KIND]
  local row = packed[id]
  if row and not kind and held[id] == nil and string.sub(row, 1, 18) == 'x' .. '-' .. settlement[GIVEN] then
    -- A plain job is done, as most are.
    answers[i], held[id], changed[id] = '1', false, true
    leases[#leases + 1], ended[#ended + 1], acked[#acked + 1] = id, id, id
    row = nil
  else
    row = row_of(id)
  end
  if not row then
    answers[i] = answers[i] or '0'
  elseif row.token ~= NONE and row.token == settlement[GIVEN] then
    answers[i], row.token = '1', NONE
    if row.at == 'x' then leases[#leases + 1] = id else withdraw(id, row) end
    if kind == 'nack' then nack(id, row, settlement[4], settlement[5], settlement[6])
    elseif kind == 'back' then nack(id, row, row.due - now, false)
    elseif kind == 'dead' then set_aside(id, row, settlement[4], settlement[5])
    else ack(id, row, settlement[4], settlement[5]) end
  else
    answers[i] = '0'
  end
end
if #leases > 0 then redis.call('ZREM', key.leased, unpack(leases)) end
forget_outcomes(acked)
if #outcomes > 0 then
  redis.call('HSET', key.outcome, unpack(outcomes))
  redis.call('ZADD', key.kept, unpack(ends))
  -- They carry no job, so they may go with the last of them, even if nobody ever looks at this queue again.
  local last = redis.call('ZRANGE', key.kept, -1, -1, 'WITHSCORES')[2]
  for _, name in ipairs({ key.outcome, key.kept }) do
    if last == 'inf' then redis.call('PERSIST', name)
    else redis.call('PEXPIREAT', name, math.ceil(tonumber(last) / 1000)) end
  end
end
if window > 0 and #ended > 0 then
  for _, id in ipairs(ended) do redis.call('ZADD', key.ended, now + window, id) end
  redis.call('PEXPIRE', key.ended, math.ceil(window / 1000))
end
if #ended > 0 and redis.call('EXISTS', key.watched) == 1 then
  for i, watchers in ipairs(redis.call('HMGET', key.watched, unpack(ended))) do
    for member in string.gmatch(watchers or '', '[^|]+') do tell(member) end
    redis.call('HDEL', key.watched, ended[i])
  end
end
finish()
return table.concat(answers)
