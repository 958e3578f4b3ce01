-- Lets leases end at another moment; returns a string with 'h' (held), 'l' (lost) or 'c' (cancelled) for each receipt.
-- KEYS: those of the queue.
-- ARGV[1]: the lease. ARGV[2]: packed receipts, each {id, token}.
turn_to(0)
local lease, receipts = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local answers, leases = {}, {}

-- Take a lapsed job out of the line again; false when its place in its group has gone to another.
local function retake(id, row)
  local more = row.more
  if more and more.g and not more.p and not more.c then
    if places_of(more.g) >= limit_of(row) then return false end
    take_place(row)
  end
  withdraw(id, row)
  row.at, changed[id] = 'x', true
  return true
end

advance()
local ids = {}
for i, receipt in ipairs(receipts) do ids[i] = receipt[1] end
load(ids)
for i, receipt in ipairs(receipts) do
  local id, token = receipt[1], receipt[2]
  local row = row_of(id)
  if row and row.token ~= NONE and row.token == token and (row.at == 'x' or retake(id, row)) then
    leases[#leases + 1] = now + lease
    leases[#leases + 1] = id
    answers[i] = row.more and row.more.c and 'c' or 'h'
  else
    answers[i] = 'l'
  end
end
if #leases > 0 then
  redis.call('ZADD', key.leased, unpack(leases))
  soonest = now + lease
end
finish()
return table.concat(answers)
