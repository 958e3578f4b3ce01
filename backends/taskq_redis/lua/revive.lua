-- Makes dead letters ready again; returns 'revived', 'conflict' or 'unknown' for each.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
advance()

local function holder_of(name)
  local id = redis.call('HGET', key.unique, name)
  local row = id and row_of(id)
  return row and (row.more.ku or now + 1) > now and id or nil
end

local function revive(id)
  local row = row_of(id)
  if not row or row.at ~= 'd' then return 'unknown' end
  local more = row.more or {}
  if more.u and (more.ku or now + 1) > now then
    if (holder_of(more.u) or id) ~= id then return 'conflict' end
    redis.call('HSET', key.unique, more.u, id)
  end
  withdraw(id, row)
  redis.call('HDEL', key.letter, id)
  more.c = nil
  more.xa = more.xi and now + more.xi
  row.attempt, row.losses, row.due = 1, 0, now
  schedule(id, row)
  return 'revived'
end

local answers = {}
for i, id in ipairs(ARGV) do answers[i] = revive(id) end
finish()
return answers
