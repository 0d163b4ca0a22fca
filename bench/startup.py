#!/usr/bin/env python3
"""How long a start takes with many keys in the store, and what memory it needs then.

Fills a node with KEYS keys of 20 bytes and values of 100 bytes through its HTTP interface (wrk), stops it with SIGTERM
and starts it again, then kills it with SIGKILL under write load and starts it again. Prints the time from exec until
addresses.json says that it serves linearizable reads, and the resident memory then.
Needs: a release build of insid, wrk. Usage: bench/startup.py [--keys N]
"""

import argparse, json, pathlib, re, signal, subprocess, tempfile, time

from peers import post, start_insid, wait_for

LUA = """
wrk.headers["Authorization"] = "Bearer %s"
local value = string.rep("x", 100)
local next_key = %d
request = function()
  next_key = next_key + 1
  return wrk.format("POST", "/db/api/v1/vs", nil, string.format('{"key":"key:%%016d","value":"%%s"}', next_key, value))
end
"""


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def load(address, key, scratch, start, seconds):
    script = scratch / "fill.lua"
    script.write_text(LUA % (key, start))
    out = subprocess.run(["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", script, f"http://{address}/"],
                         capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(out)
    return int(re.search(r"(\d+) requests in", out)[1])


def restart(child, scratch, stop):
    child.send_signal(stop)
    child.wait()
    (scratch / "insid" / "addresses.json").unlink(missing_ok=True)
    began = time.monotonic()
    started = start_insid(scratch, create_key=False)
    return time.monotonic() - began, *started


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--keys", type=int, default=1_000_000)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        child, address, key = start_insid(scratch)
        try:
            written = 0
            while written < arguments.keys:
                written += load(address, key, scratch, written, 10)
            print(f"{written:,} keys written; resident {resident_mib(child.pid):,.0f} MiB")
            took, child, address, _ = restart(child, scratch, signal.SIGTERM)
            print(f"start after SIGTERM: {took * 1000:,.0f} ms; resident {resident_mib(child.pid):,.0f} MiB")
            written += load(address, key, scratch, written, 10)
            took, child, address, _ = restart(child, scratch, signal.SIGKILL)
            print(f"start after SIGKILL, {written:,} keys: {took * 1000:,.0f} ms; resident {resident_mib(child.pid):,.0f} MiB")
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


if __name__ == "__main__":
    main()
