"""The Lua that changes job records: each change is one step in Redis, whatever else happens at the same moment.

Called by: contract.status. Must not import: anything.
Keys and arguments are numbered as contract.status passes them.
Example: `client.register_script(MOVE)`
"""

# Returns 1 if the job is new (or may run again) and was recorded as queued, else 0. With its message, if one is given.
ADMIT = """
local old = redis.call('HMGET', KEYS[1], 'state', 'updated_s')
local state = old[1]
if state == 'queued' or state == 'running' or state == 'writing' then return 0 end
if state == 'failed' and tonumber(ARGV[2]) - tonumber(old[2]) < tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', 'queued', 'run', ARGV[4], 'updated_s', ARGV[2], 'job', ARGV[5])
redis.call('HINCRBY', KEYS[2], 'queued', 1)
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1] .. '.' .. ARGV[4])
if redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1]) == 1 then redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -10001) end
redis.call('ZREM', KEYS[5], ARGV[1])
if ARGV[6] ~= '' then redis.call('LPUSH', KEYS[6], ARGV[6]) end
return 1
"""

# Moves a record to a new state if it is in one of the states that may lead there and belongs to the same run.
# Returns the state found before; the caller acts only if that one was allowed. The latest 1,000 failures are listed.
# A message, if one is given, is sent whatever the record says: what a pass of the model has found is kept.
MOVE = """
if ARGV[7] ~= '' then redis.call('LPUSH', KEYS[7], ARGV[7]) end
local old = redis.call('HMGET', KEYS[1], 'state', 'run')
local state, run = old[1] or 'none', old[2]
if run and run ~= ARGV[2] then return 'superseded' end
if not string.find(ARGV[5], ' ' .. state .. ' ', 1, true) then return state end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'run', ARGV[2], 'updated_s', ARGV[3], unpack(ARGV, 8))
if state == 'queued' or state == 'running' or state == 'writing' then redis.call('HINCRBY', KEYS[2], state, -1) end
redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
if tonumber(ARGV[6]) > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  redis.call('ZREM', KEYS[3], ARGV[1] .. '.' .. ARGV[2])
else
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1] .. '.' .. ARGV[2])
end
if ARGV[4] == 'done' then
  redis.call('HINCRBY', KEYS[5], ARGV[9], 1)
  redis.call('EXPIRE', KEYS[5], 3600)
end
if redis.call('ZADD', KEYS[6], ARGV[3], ARGV[1]) == 1 then redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -10001) end
if ARGV[4] == 'failed' then
  redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1001)
end
return state
"""

# A message that came again speaks of a death if its job was running. Returns how often that was while it ran alone;
# -1 where nobody died of this run.
COUNT_DEATH = """
local old = redis.call('HMGET', KEYS[1], 'state', 'run', 'alone')
if old[1] ~= 'running' or old[2] ~= ARGV[1] then return -1 end
redis.call('HINCRBY', KEYS[1], 'deaths', 1)
return redis.call('HINCRBY', KEYS[1], 'deaths_alone', old[3] == '1' and 1 or 0)
"""

# MOVE from queued to running, of many jobs that come for the first time, with a look at whether their tasks are gone.
# The message is kept in the record already, unless the record was lost.
START_ALL = """
local fates, now = {}, ARGV[1]
for i = 1, (#KEYS - 1) / 4 do
  local record, counts, latest, deleted = unpack(KEYS, 4 * i - 2, 4 * i + 1)
  local id, run, task, job = unpack(ARGV, 4 * i - 1, 4 * i + 2)
  local old = redis.call('HMGET', record, 'state', 'run')
  local state = old[1] or 'none'
  if (old[2] and old[2] ~= run) or (state ~= 'queued' and state ~= 'none') then
    fates[i] = 'taken'
  else
    redis.call('HSET', record, 'state', 'running', 'run', run, 'updated_s', now, 'worker', ARGV[2], 'alone', '0')
    if state == 'queued' then redis.call('HINCRBY', counts, 'queued', -1)
    else redis.call('HSET', record, 'job', job) end
    redis.call('HINCRBY', counts, 'running', 1)
    redis.call('ZADD', KEYS[1], now, id .. '.' .. run)
    if redis.call('ZADD', latest, now, id) == 1 then redis.call('ZREMRANGEBYRANK', latest, 0, -10001) end
    fates[i] = redis.call('SISMEMBER', deleted, task) == 1 and 'deleted' or 'started'
  end
end
return fates
"""

# MOVE from running to writing, of many jobs, each with its message.
PREDICTED_ALL = """
local now = ARGV[1]
for i = 1, (#KEYS - 1) / 4 do
  local record, counts, latest, queue = unpack(KEYS, 4 * i - 2, 4 * i + 1)
  local id, run, boxes, message = unpack(ARGV, 4 * i - 2, 4 * i + 1)
  redis.call('LPUSH', queue, message)
  local old = redis.call('HMGET', record, 'state', 'run')
  if old[1] == 'running' and old[2] == run then
    redis.call('HSET', record, 'state', 'writing', 'updated_s', now, 'boxes', boxes)
    redis.call('HINCRBY', counts, 'running', -1)
    redis.call('HINCRBY', counts, 'writing', 1)
    redis.call('ZADD', KEYS[1], now, id .. '.' .. run)
    if redis.call('ZADD', latest, now, id) == 1 then redis.call('ZREMRANGEBYRANK', latest, 0, -10001) end
  end
end
"""
