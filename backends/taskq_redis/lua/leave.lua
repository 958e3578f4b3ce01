-- Lets a fetch wait no longer, and wakes another in its stead where there is something to do; returns nothing.
-- KEYS: those of each queue.
-- ARGV[1]: 'channel number lease' of the fetch.
for queue = 0, #KEYS / WIDTH - 1 do
  turn_to(queue)
  leave(key, ARGV[1])
end
