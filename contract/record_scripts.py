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
