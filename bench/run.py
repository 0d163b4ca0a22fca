#!/usr/bin/env python3
"""First measurements: InsiDB over HTTP (wrk) beside Redis that syncs each write (redis-benchmark).

Starts both on free loopback ports, fills 10,000 keys of 20 bytes with values of 100 bytes, then measures get, set
and cache set at 1 and 64 connections in interleaved rounds, and prints medians and ratios as a Markdown table.
Needs: a release build of insid, redis-server, redis-benchmark, wrk. Usage: bench/run.py [--rounds N] [--seconds N]
"""

import argparse, csv, io, json, os, pathlib, re, signal, socket, statistics, subprocess, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEYS = 10_000

LUA = """
local keys = %d
wrk.headers["Authorization"] = "Bearer %s"
local value = string.rep("x", 100)
local which = "%s"
local next_key = 0
request = function()
  next_key = next_key + 1
  local key = string.format("key:%%016d", which == "fill" and next_key %% keys or math.random(0, keys - 1))
  if which == "get" then return wrk.format("GET", "/db/api/v1/vs?key=" .. key) end
  local path = which == "cache set" and "/db/api/v1/cache" or "/db/api/v1/vs"
  return wrk.format("POST", path, nil, '{"key":"' .. key .. '","value":"' .. value .. '"}')
end
local thread_seed = os.time()
setup = function(thread) thread:set("id", thread_seed); thread_seed = thread_seed + 1 end
init = function() math.randomseed(id) end
done = function(summary)
  local e = summary.errors
  io.write(string.format("ERRORS %%d\\n", e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise SystemExit(f"timed out waiting for {what}")


def post(url, key, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"{}")


def start_insid(scratch, create_key=True):
    data = scratch / "insid"
    binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "insid"
    child = subprocess.Popen(
        [binary, "dev", "--data-dir", data, "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "INSIDB_LOG_LEVEL": "warn"})
    addresses = wait_for("insid", lambda: (data / "addresses.json").exists() and json.loads((data / "addresses.json").read_text()))
    if not create_key:
        return child, addresses["public"], None
    root = (data / "root.key").read_text().strip()
    admin = f"http://{addresses['private']}/db/api/v1/admin"
    made = post(f"{admin}/api/create", root, {"key_name": "bench"})
    post(f"{admin}/limits/set", root, {"key_uuid": made["key_uuid"], "limits": {"rate_per_second_data_limit": 100_000_000}})
    return child, addresses["public"], made["key"]


def start_redis(scratch):
    port = free_port()
    child = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", scratch, "--save", "",
         "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)
    wait_for("redis", lambda: subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).returncode == 0)
    return child, port


def wrk(address, script, connections, seconds):
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://{address}/"],
                         capture_output=True, text=True, check=True).stdout
    errors = int(re.search(r"ERRORS (\d+)", out)[1])
    if errors:
        raise SystemExit(f"wrk saw {errors} errors:\n{out}")
    unit = {"us": 0.001, "ms": 1, "s": 1000}
    def percentile(name):
        value, suffix = re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", out).groups()
        return float(value) * unit[suffix]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), percentile(50), percentile(99)


def redis_benchmark(port, test, connections, seconds):
    requests = int(seconds * (60_000 if connections > 1 or test == "get" else 6_000))
    out = subprocess.run(["redis-benchmark", "-p", str(port), "-t", test, "-c", str(connections), "-n", str(requests),
                          "-d", "100", "-r", str(KEYS), "--csv"], capture_output=True, text=True, check=True).stdout
    row = list(csv.DictReader(io.StringIO(out)))[0]
    return float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=5)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        insid, address, key = start_insid(scratch)
        redis, port = start_redis(scratch)
        try:
            measure(arguments, scratch, address, key, port)
        finally:
            for child in (insid, redis):
                child.send_signal(signal.SIGTERM)
                child.wait()


def measure(arguments, scratch, address, key, port):
    scripts = {}
    for name in ("fill", "get", "set", "cache set"):
        scripts[name] = scratch / f"{name.replace(' ', '-')}.lua"
        scripts[name].write_text(LUA % (KEYS, key, name))
    wrk(address, scripts["fill"], 64, 5)
    redis_benchmark(port, "set", 64, 3)
    peers = {"get": "get", "set": "set", "cache set": "set"}
    found = {}
    for _ in range(arguments.rounds):
        for connections in (1, 64):
            for name, peer in peers.items():
                found.setdefault((name, connections, "insid"), []).append(wrk(address, scripts[name], connections, arguments.seconds))
                found.setdefault((name, connections, "redis"), []).append(redis_benchmark(port, peer, connections, arguments.seconds))
    print("| operation | connections | InsiDB /s | p50 ms | p99 ms | Redis, fsync always /s | p50 ms | p99 ms | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for connections in (1, 64):
        for name in peers:
            ours, theirs = (
                [statistics.median(column) for column in zip(*found[name, connections, which])] for which in ("insid", "redis"))
            print(f"| {name} | {connections} | {ours[0]:,.0f} | {ours[1]:.3f} | {ours[2]:.3f} "
                  f"| {theirs[0]:,.0f} | {theirs[1]:.3f} | {theirs[2]:.3f} | {ours[0] / theirs[0]:.2f} |")


if __name__ == "__main__":
    main()
