-- Stands before each script of a queue: the clock, what a row looks like, and how a fetch that waits is told.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- A row is bytes: where it stands (later 'l', ready 'r', parked 'p', leased 'x', dead 'd'), '+' if there is more, the
-- token of its last lease, attempt, losses, fence, its rank, and then packed as a map what plain jobs lack:
-- u unique key, k unique_until, ku moment the key lapses, oc on_conflict, g group, l group_limit, p holds a place,
-- xi expires in, xa expires at, t tenant, s since when it stands in line for its tenant, c cancelled, e has an error.
-- Most jobs are plain, so what happens to each of them is done on the bytes: unpacking a row costs 2 µs.
local HEAD = '>c1c1c16I4I4I8'
local RANKED = '>I8I8I8I2'
local NONE = '----------------' -- in place of a token: it was settled, or has never been leased
local BEFORE, RANK = 34, 26 -- bytes of a row before its rank, and of the rank
local MIDDLE = 4503599627370496
-- A plain row that has never been leased, after the first byte: the end of HEAD with '-', NONE, 1, 0, 0.
local FRESH = '-' .. NONE .. '\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0'

-- Channels of a cluster are heard on any of its nodes, and a node counts its own listeners only.
local function tell(member, more)
  local channel, number = string.match(member, '^(%S+) (%d+)')
  return redis.call('PUBLISH', channel, number .. (more or '')) > 0 or string.find(channel, ':cast:', 1, true)
end

-- Wake one waiting fetch: it wakes the next when it leaves jobs behind, so a job never wakes a herd.
local function wake(waiting, how)
  local first
  repeat
    first = redis.call('ZPOPMIN', waiting)
  until not first[1] or (tonumber(first[2]) > now and (how or tell)(first[1]))
end
