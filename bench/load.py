"""What asks: wrk for whoever speaks HTTP, redis-benchmark for Redis. Both are closed loops of so many connections."""

import csv, io, json, re, subprocess

# What wrk calls at the end: the times are in milliseconds.
DONE = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %d, "seconds": %f, "errors": %d, "p50": %f, "p99": %f, "p999": %f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
"""
LUA = """
local keys, value_bytes, which, peer = %d, %d, "%s", "%s"
wrk.headers["Authorization"] = "Bearer %s"
local value = string.rep("x", value_bytes)
local next_key = 0
local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for digit = 0, 3 do
      local is_there = digit < 2 or (digit == 2 and b) or (digit == 3 and c)
      local place = math.floor(n / 64 ^ (3 - digit)) %% 64 + 1
      out[#out + 1] = is_there and letters:sub(place, place) or "="
    end
  end
  return table.concat(out)
end
local value_base64 = peer == "etcd" and base64(value) or ""
request = function()
  next_key = next_key + 1
  local key = string.format("key:%%016d", (which == "fill" or which == "cache fill") and next_key %% keys or math.random(0, keys - 1))
  local is_get = which == "get" or which == "cache get"
  if peer == "etcd" then
    if is_get then return wrk.format("POST", "/v3/kv/range", nil, '{"key":"' .. base64(key) .. '"}') end
    return wrk.format("POST", "/v3/kv/put", nil, '{"key":"' .. base64(key) .. '","value":"' .. value_base64 .. '"}')
  end
  local store = which:sub(1, 5) == "cache" and "/db/api/v1/cache" or "/db/api/v1/vs"
  if is_get then return wrk.format("GET", store .. "?key=" .. key) end
  return wrk.format("POST", store, nil, '{"key":"' .. key .. '","value":"' .. value .. '"}')
end
wrk.headers["Content-Type"] = "application/json"
local thread_seed = os.time()
setup = function(thread) thread:set("id", thread_seed); thread_seed = thread_seed + 1 end
init = function() math.randomseed(id) end
"""


def script(keys, value_bytes, which, peer="insid", key=""):
    """The text of a script for wrk: `which` is `fill`, `get`, `set`, `cache fill`, `cache get` or `cache set`."""
    return LUA % (keys, value_bytes, which, peer, key) + DONE


def wrk(address, path, connections, seconds):
    """What wrk found: requests, seconds, p50, p99 and p999 in milliseconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", path, f"http://{address}/"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(re.search(r"RESULT (.*)", out)[1])
    if found["errors"]:
        raise SystemExit(f"wrk saw {found['errors']} errors:\n{out}")
    found["rate"] = found["requests"] / found["seconds"]
    return found


def redis_benchmark(port, which, keys, value_bytes, connections, requests):
    """The same of redis-benchmark, which makes so many requests and tells no p99.9."""
    command = ["redis-benchmark", "-p", str(port), "-t", "get" if "get" in which else "set", "-c", str(connections),
               "-n", str(max(1_000, requests)), "-d", str(value_bytes), "-r", str(keys), "--csv"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = list(csv.DictReader(io.StringIO(out)))[0]
    rate = float(row["rps"])
    return {"requests": max(1_000, requests), "seconds": max(1_000, requests) / rate, "rate": rate,
            "p50": float(row["p50_latency_ms"]), "p99": float(row["p99_latency_ms"]), "p999": None}
