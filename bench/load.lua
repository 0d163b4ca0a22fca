-- What wrk asks. `P`, which load.py writes in front of this text, says what:
--   kind         get, set, mix, setnx, cas, bump, iterate, or fill: all keys once, in order
--   store        vs or cache
--   peer         etcd is asked in its own words, all others as InsiDB is
--   keys         how many keys there are; key n is tenant n % tenants' key number n / tenants
--   value_bytes  the length of a value
--   writes       mix: how many of 100 requests are sets
--   limit, offset, is_after    iterate: keys of a page, keys passed over, whether a page begins behind a random key
--   batch        fill of etcd: keys of one request
--   fill_end     fill: says FILLED before the request of this number
--   api_keys     a file with an API key for each tenant
local value = string.rep("x", P.value_bytes)
local hot = P.kind == "bump" and "counter:000000000hot" or "key:0000000000000hot"

local authorizations = {}
for key in io.lines(P.api_keys) do
  -- An empty line stands for none.
  authorizations[#authorizations + 1] = key == "" and "" or "Authorization: Bearer " .. key .. "\r\n"
end
local tenants = #authorizations

local host = "Host: localhost\r\n"
local function get(tenant, path) return "GET " .. path .. " HTTP/1.1\r\n" .. host .. authorizations[tenant] .. "\r\n" end
local function post(tenant, path, body)
  return "POST " .. path .. " HTTP/1.1\r\n" .. host .. "Content-Type: application/json\r\n" .. authorizations[tenant]
    .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end
-- The tenant of the key of this number, and the key.
local function named(number) return number % tenants + 1, string.format("key:%016d", math.floor(number / tenants)) end
local function any() return named(math.random(0, P.keys - 1)) end

local store = "/db/api/v1/" .. P.store
local tail = '","value":"' .. value .. '"}'
local insidb = {
  get = function(tenant, key) return get(tenant, store .. "?key=" .. key) end,
  set = function(tenant, key) return post(tenant, store, '{"key":"' .. key .. tail) end,
  setnx = function(tenant) return post(tenant, store .. "/setnx", '{"key":"' .. hot .. tail) end,
  cas = function(tenant)
    return post(tenant, store .. "/cas", '{"key":"' .. hot .. '","old_value":"' .. value .. '","new_value":"' .. value .. '"}')
  end,
  bump = function(tenant) return post(tenant, store .. "/bump", '{"key":"' .. hot .. '","value":"1"}') end,
  iterate = function(tenant, key)
    local from = P.is_after and "&after=" .. key or P.offset > 0 and "&offset=" .. P.offset or ""
    return get(tenant, store .. "/iterate?prefix=key:&limit=" .. P.limit .. from)
  end,
}

local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
-- Three bytes in Base64, kept for the next time.
local triples = setmetatable({}, { __index = function(known, bytes)
  local a, b, c = bytes:byte(1, 3)
  local n, out = a * 65536 + (b or 0) * 256 + (c or 0), ""
  for digit = 0, 3 do
    local is_there = digit < 2 or (digit == 2 and b) or (digit == 3 and c)
    local place = math.floor(n / 64 ^ (3 - digit)) % 64 + 1
    out = out .. (is_there and letters:sub(place, place) or "=")
  end
  known[bytes] = out
  return out
end })
local function base64(text)
  local out = {}
  for at = 1, #text, 3 do out[#out + 1] = triples[text:sub(at, at + 2)] end
  return table.concat(out)
end
local coded = P.peer == "etcd" and base64(value)
local function put(key) return '{"key":"' .. base64(key) .. '","value":"' .. coded .. '"}' end
-- A put on the condition that the hot key's `field` is so.
local function put_if(field)
  return '{"compare":[{"key":"' .. base64(hot) .. '",' .. field .. '}],"success":[{"requestPut":' .. put(hot) .. '}]}'
end
local etcd = {
  get = function(tenant, key) return post(tenant, "/v3/kv/range", '{"key":"' .. base64(key) .. '"}') end,
  set = function(tenant, key) return post(tenant, "/v3/kv/put", put(key)) end,
  setnx = function(tenant) return post(tenant, "/v3/kv/txn", put_if('"target":"VERSION","version":"0"')) end,
  cas = function(tenant) return post(tenant, "/v3/kv/txn", put_if('"target":"VALUE","value":"' .. coded .. '"')) end,
  iterate = function(tenant, key)
    local from, to = base64(P.is_after and key or "key:"), base64("key;")
    return post(tenant, "/v3/kv/range", '{"key":"' .. from .. '","range_end":"' .. to .. '","limit":"' .. P.limit .. '","keys_only":true}')
  end,
}

local asked = P.peer == "etcd" and etcd or insidb
local made = 0
local function fill()
  made = made + 1
  if made == P.fill_end then
    io.write("FILLED\n")
    io.flush()
  end
  if P.peer ~= "etcd" then
    local tenant, key = named((made - 1) % P.keys)
    return asked.set(tenant, key)
  end
  local puts = {}
  for number = (made - 1) * P.batch, made * P.batch - 1 do
    local _, key = named(number % P.keys)
    puts[#puts + 1] = '{"requestPut":' .. put(key) .. '}'
  end
  return post(1, "/v3/kv/txn", '{"success":[' .. table.concat(puts, ",") .. ']}')
end
local function mix()
  return (math.random(100) <= P.writes and asked.set or asked.get)(any())
end
request = P.kind == "fill" and fill or P.kind == "mix" and mix or function() return asked[P.kind](any()) end

local thread_seed = os.time()
setup = function(thread) thread:set("id", thread_seed); thread_seed = thread_seed + 1 end
init = function() math.randomseed(id) end

-- Times are in milliseconds.
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %d, "seconds": %f, "refused": %d, "errors": %d, "p50": %f, "p99": %f, "p999": %f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
