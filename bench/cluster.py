#!/usr/bin/env python3
"""Three local nodes beside a single one, with wrk; then the cost of a snapshot to the traffic beside it.

First part: durable set, cache set and get of 100-byte values at 1, 16, 64 and 256 connections, through the leader, through
a follower, and on a bare single node in the same run, in interleaved rounds; medians, and the ratio to the single node.
Second part (--snapshot-keys, default 1000000, 0 for none): the Value Store is filled, then a follower is killed, its data
directory removed, and started again empty, while wrk writes at 16 connections through the leader: rate and p99 before, while
the follower is rebuilt, and after. Needs: a release build of insid, wrk.
Usage: bench/cluster.py [--rounds N] [--seconds N] [--connections 1,16,64,256] [--snapshot-keys N]
"""

import argparse, pathlib, shutil, statistics, tempfile, threading, time

from load import DONE, script as lua, wrk
from local import Cluster

KEYS = 10_000

# The operations, and the store whose group's leader each is about.
OPERATIONS = {"set": "/vs", "cache set": "/cache", "get": "/vs"}
TARGETS = ("single node", "leader of three", "follower of three")
FILL_LUA = """
wrk.headers["Authorization"] = "Bearer %s"
local value = string.rep("x", 100)
local n = %d
request = function()
  n = n + 1
  return wrk.format("POST", "/db/api/v1/vs", nil, string.format('{"key":"row:%%015d","value":"%%s"}', n, value))
end
"""


def scripts(scratch, key, tag):
    found = {}
    for name in ("fill", *OPERATIONS):
        found[name] = scratch / f"{tag}-{name.replace(' ', '-')}.lua"
        found[name].write_text(lua(KEYS, 100, name, key=key))
    return found


def speeds(arguments, scratch):
    with Cluster(scratch / "one", 1) as single, Cluster(scratch / "three", 3) as cluster:
        own, shared = scripts(scratch, single.key, "single"), scripts(scratch, cluster.key, "cluster")
        wrk(single.nodes[0].public, own["fill"], 64, arguments.seconds)
        wrk(cluster.leader().public, shared["fill"], 64, arguments.seconds)
        leaders = {operation: cluster.leader(store) for operation, store in OPERATIONS.items()}
        found = {}
        for _ in range(arguments.rounds):
            for connections in arguments.connections:
                for operation, leader in leaders.items():
                    follower = next(node for node in cluster.nodes if node is not leader)
                    for name, node, script in zip(TARGETS, (single.nodes[0], leader, follower), (own, shared, shared)):
                        row = wrk(node.public, script[operation], connections, arguments.seconds)
                        found.setdefault((operation, connections, name), []).append(row)
        if any(cluster.leader(store) is not leaders[operation] for operation, store in OPERATIONS.items()):
            raise SystemExit("a leadership moved during the run: its figures say nothing")
    print("| operation | connections | through | /s | p50 ms | p99 ms | ratio to the single node |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for connections in arguments.connections:
        for operation in OPERATIONS:
            base = statistics.median(row["rate"] for row in found[operation, connections, "single node"])
            for name in TARGETS:
                runs = found[operation, connections, name]
                rate, p50, p99 = (statistics.median(run[field] for run in runs) for field in ("rate", "p50", "p99"))
                print(f"| {operation} | {connections} | {name} | {rate:,.0f} | {p50:.3f} | {p99:.3f} | {rate / base:.2f} |")


def snapshot(arguments, scratch):
    with Cluster(scratch / "snapshot", 3) as cluster:
        leader = cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        fill, rows = scratch / "rows.lua", 0
        while rows < arguments.snapshot_keys:
            fill.write_text(FILL_LUA % (cluster.key, rows) + DONE)
            # A run is never shorter than it says: at least so many rows are new.
            rows += int(wrk(leader.public, fill, 64, 5)["rate"] * 5)
        cluster.await_whole()
        script = scripts(scratch, cluster.key, "beside")["set"]
        phases = [("before", measured(leader, script, arguments.seconds))]
        cluster.kill(follower)
        shutil.rmtree(follower.data)
        begun = time.monotonic()
        cluster.spawn(follower)
        rebuilt = threading.Event()
        rebuilt_after = []

        def watch():
            try:
                cluster.await_whole(600, equal=False)
                rebuilt_after.append(time.monotonic() - begun)
            finally:
                rebuilt.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        phases.append(("while the follower is rebuilt", measured(leader, script, 1, rebuilt)))
        watcher.join()
        if not rebuilt_after:
            raise SystemExit("the follower was not rebuilt")
        phases.append(("after", measured(leader, script, arguments.seconds)))
        print(f"\n{rows:,} keys; the follower voted again {rebuilt_after[0]:.1f} s after it started empty.\n")
        print("| durable set, 16 connections | seconds | /s | p50 ms | p99 ms | p99 ms of the worst second |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, runs in phases:
            rates, p50s, p99s = ([run[field] for run in runs] for field in ("rate", "p50", "p99"))
            print(f"| {name} | {len(runs)} | {statistics.median(rates):,.0f} | {statistics.median(p50s):.2f} "
                  f"| {statistics.median(p99s):.2f} | {max(p99s):.2f} |")


def measured(node, script, runs_min, until=None):
    """Runs of a second: so many, and on until the event is set."""
    runs = []
    while len(runs) < runs_min or (until and not until.is_set()):
        runs.append(wrk(node.public, script, 16, 1))
    return runs


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64, 256])
    arguments.add_argument("--snapshot-keys", type=int, default=1_000_000)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name in ("one", "three", "snapshot"):
            (scratch / name).mkdir()
        if arguments.rounds:
            speeds(arguments, scratch)
        if arguments.snapshot_keys:
            snapshot(arguments, scratch)


if __name__ == "__main__":
    main()
