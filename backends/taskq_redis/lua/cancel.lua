-- Marks live jobs as cancelled and makes waiting ones due; returns 1 for each, 0 where no live job has the id.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
advance()
local answers = {}
for i, id in ipairs(ARGV) do
  local row = row_of(id)
  answers[i] = 0
  if row and row.at ~= 'd' then
    answers[i], changed[id] = 1, true
    if row.at ~= 'x' then withdraw(id, row) end
    row.more = row.more or {}
    row.more.c = true
    if row.at ~= 'x' then
      row.due = math.min(row.due, now)
      schedule(id, row)
    end
  end
end
finish()
return answers
