-- Removes dead letters for good; returns 1 for each, 0 where there is none of this id.
-- KEYS: those of the queue.
-- ARGV: the ids.
turn_to(0)
advance()
local answers = {}
for i, id in ipairs(ARGV) do
  local row = row_of(id)
  answers[i] = 0
  if row and row.at == 'd' then
    answers[i] = 1
    bury(id, row)
  end
end
finish()
return answers
