"""What asks: wrk for whoever speaks HTTP, redis-benchmark for Redis. Both are closed loops of so many connections."""

import json, pathlib, re

from peers import file_name
from processes import OutOfTime, output, program

LUA = pathlib.Path(__file__).with_name("load.lua")
# How long a client may take beyond what it was told to.
PATIENCE_S = 60
# A value on the command line of redis-benchmark: Linux takes no longer words.
WORD_BYTES_MAX = 100_000


def script(scratch, peer, operation, keys, value_bytes, **more):
    """Writes the script by which wrk asks; `operation` is an `Operation`, or `None` to fill."""
    keys_file = scratch / f"{file_name(peer.name)}.keys"
    keys_file.write_text("\n".join(peer.api_keys) + "\n")
    given = {"peer": peer.name, "keys": keys, "value_bytes": value_bytes, "api_keys": str(keys_file), "kind": "fill", "store": "vs"}
    if operation:
        given |= {"kind": operation.kind, "store": operation.store, "writes": operation.writes, "limit": operation.limit,
                  "offset": operation.offset, "is_after": operation.is_after}
    path = scratch / "script.lua"
    # A string, number or truth of JSON is one of Lua too.
    fields = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (given | more).items())
    path.write_text(f"local P = {{ {fields} }}\n{LUA.read_text()}")
    return path


def wrk_command(address, path, connections, seconds):
    return [program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", path, f"http://{address}/"]


def result(out, may_refuse=False):
    """What wrk printed: requests, seconds, rate, p50, p99 and p999 in milliseconds."""
    found = json.loads(re.search(r"RESULT (.*)", out)[1])
    if found["errors"] or (found["refused"] and not may_refuse):
        raise SystemExit(f"wrk saw {found['errors']} errors, and {found['refused']} answers that refuse:\n{out}")
    found["rate"] = found["requests"] / found["seconds"]
    return found


def wrk(peer, operation, scratch, keys, value_bytes, connections, seconds):
    path = script(scratch, peer, operation, keys, value_bytes)
    out = output(wrk_command(peer.address_of(operation.store), path, connections, seconds), seconds + PATIENCE_S)
    return result(out, may_refuse=operation.refusal is not None)


def redis_benchmark(port, command, keys, connections, requests):
    """The same of redis-benchmark, which makes so many requests. Its nearest to a p99.9 is at 99.902 %."""
    asked = [program("redis-benchmark"), "-p", port, "-c", connections, "-n", requests, "-r", keys, *command]
    out = output(asked, 600).replace("\r", "\n")
    rate = float(re.search(r"throughput summary: ([\d.]+) requests per second", out)[1])
    _, _, p50, _, p99, _ = (float(word) for word in re.search(r"avg +min +p50 +p95 +p99 +max\n([\d. ]+)", out)[1].split())
    p999 = next(float(value) for share, value in re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds", out) if float(share) >= 99.9)
    return {"requests": requests, "seconds": requests / rate, "rate": rate, "p50": p50, "p99": p99, "p999": p999}


class Client:
    """Runs an operation against a peer for about so many seconds."""

    def __init__(self, scratch, deadline):
        self.scratch, self.deadline = scratch, deadline
        # What Redis did in a second: redis-benchmark takes a number of requests, no time.
        self.redis_rates = {}

    def run(self, peer, operation, keys, value_bytes, connections, seconds):
        if self.deadline.is_past(seconds):
            raise OutOfTime
        read_before = peer.read_bytes()
        if peer.protocol == "redis":
            if value_bytes > WORD_BYTES_MAX:
                raise SystemExit(f"redis-benchmark takes no values over {WORD_BYTES_MAX:,} bytes: leave Redis out with --peers")
            command = operation.redis("x" * value_bytes)
            work = (peer.name, operation, value_bytes, connections)
            if work not in self.redis_rates:
                self.redis_rates[work] = redis_benchmark(peer.port, command, keys, connections, max(1_000, connections))["rate"]
            requests = max(1_000, int(self.redis_rates[work] * seconds))
            cpu_before = peer.cpu_seconds()
            found = redis_benchmark(peer.port, command, keys, connections, requests)
            self.redis_rates[work] = found["rate"]
        else:
            cpu_before = peer.cpu_seconds()
            found = wrk(peer, operation, self.scratch, keys, value_bytes, connections, seconds)
        found["cpu_us"] = (peer.cpu_seconds() - cpu_before) / found["requests"] * 1e6
        found["disk_read_bytes"] = (peer.read_bytes() - read_before) / found["requests"]
        found["resident_mib"] = peer.resident_bytes() / (1 << 20)
        peer.check()
        return found
