-- Marks live jobs as cancelled and makes waiting ones due; returns 1 for each, 0 where no live job has the id.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
advance()
local answers = {}
for i, id in ipairs(ARGV) do
  local row = row_of(id)
  answers[i] = 0
  if row and row[AT] ~= DEAD then
    answers[i], changed[id] = 1, true
    if row[AT] ~= LEASED then withdraw(id, row) end
    row[MORE] = row[MORE] or {}
    row[MORE].c = true
    if row[AT] ~= LEASED then
      row[DUE] = math.min(row[DUE], now)
      schedule(id, row)
    end
  end
end
finish()
return answers
