-- Discards members of a key and, unless that were the last, settles jobs of a queue; returns what settle does, or nil.
-- KEYS: those of the queue, and behind them those of the key.
-- ARGV[1], ARGV[2]: as for settle. ARGV[3]: as for store_discard.
if discard({ unpack(KEYS, #KEYS - 2) }, { ARGV[3] }) == 0 then return false end
return settle(KEYS, ARGV)
