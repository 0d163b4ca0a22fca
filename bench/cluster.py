#!/usr/bin/env python3
"""Three nodes on this machine beside a single one: how many requests a second, through the leader and a follower.

20-byte keys, 10,000 of them, values of 100 bytes, wrk with one thread; interleaved rounds, medians; the ratio is to the
single node in the same run. All nodes and the client share the machine. With --snapshot KEYS: what it costs the traffic
beside it when a follower that has lost its disk gets a snapshot of KEYS keys.
Needs: a release build of insid, wrk. Usage: bench/cluster.py [--rounds N] [--seconds N] [--snapshot KEYS]
"""

import argparse, pathlib, shutil, statistics, tempfile, threading, time

from nodes import Cluster
from run import KEYS, LUA, start_insid, wrk

OPERATIONS = ("set", "get", "cache set", "cache get")


def scripts(scratch, key, keys=KEYS):
    made = {}
    for name in ("fill", "cache fill", *OPERATIONS):
        made[name] = scratch / f"{key[-6:]}-{name.replace(' ', '-')}.lua"
        made[name].write_text(LUA % (keys, key, name))
    return made


def throughput(arguments, scratch):
    single, address, key = start_insid(scratch)
    cluster = Cluster(3)
    try:
        leader = cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        single_scripts, cluster_scripts = scripts(scratch, key), scripts(scratch, cluster.key)
        ways = {"single node": (address, single_scripts), "leader": (leader.public, cluster_scripts),
                "follower": (follower.public, cluster_scripts)}
        for way in ("single node", "leader"):
            for fill in ("fill", "cache fill"):
                wrk(ways[way][0], ways[way][1][fill], 64, 4)
        found = {}
        for _ in range(arguments.rounds):
            for operation in OPERATIONS:
                for connections in (1, 16, 64, 256):
                    for way, (target, made) in ways.items():
                        measured = wrk(target, made[operation], connections, arguments.seconds)
                        found.setdefault((operation, connections, way), []).append(measured)
        if cluster.leader() is not leader:
            raise SystemExit("the leadership has changed while this ran: the figures are of no use")
    finally:
        single.terminate()
        single.wait()
        cluster.close()
    print("| operation | connections | single /s | p50 ms | p99 ms | leader /s | p50 ms | p99 ms | ratio "
          "| follower /s | p50 ms | p99 ms | ratio |")
    print("| --- " + "| ---: " * 12 + "|")
    for operation in OPERATIONS:
        for connections in (1, 16, 64, 256):
            row = {way: [statistics.median(column) for column in zip(*found[operation, connections, way])] for way in ways}
            show = lambda figures: f"{figures[0]:,.0f} | {figures[1]:.3f} | {figures[2]:.3f}"
            base = row["single node"][0]
            print(f"| {operation} | {connections} | {show(row['single node'])} | {show(row['leader'])} "
                  f"| {row['leader'][0] / base:.2f} | {show(row['follower'])} | {row['follower'][0] / base:.2f} |")


def snapshot(keys, scratch):
    """Durable sets through the leader in slices of 2 s, before and while a wiped follower is rebuilt."""
    cluster = Cluster(3)
    try:
        leader = cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        made = scripts(scratch, cluster.key, keys)
        filled, began = 0, time.monotonic()
        while filled < keys * 1.02:
            rate, _, _ = wrk(leader.public, made["fill"], 256, 10)
            filled += rate * 10
            # wrk begins at the first key each time.
            made["fill"].write_text((LUA % (keys, cluster.key, "fill")).replace(
                "local next_key = 0", f"local next_key = {int(filled)}"))
        took = time.monotonic() - began
        print(f"{keys:,} keys written through three nodes in {took:.0f} s")
        slices = lambda count: [wrk(leader.public, made["set"], 16, 2) for _ in range(count)]
        before = slices(5)
        cluster.kill(follower)
        alone = slices(5)
        shutil.rmtree(follower.dir)
        rebuilt = threading.Event()
        begun = time.monotonic()

        def rebuild():
            cluster.start(follower)
            cluster.await_ready(follower)
            rebuilt.took = time.monotonic() - begun
            rebuilt.set()

        threading.Thread(target=rebuild, daemon=True).start()
        during = []
        while not rebuilt.is_set():
            during += slices(1)
        after = slices(5)
        print("| 16 connections, durable set | /s | p50 ms | p99 ms |")
        print("| --- | ---: | ---: | ---: |")
        for name, found in (("three nodes", before), ("one of them down", alone),
                            (f"it gets a snapshot ({rebuilt.took:.1f} s until it serves)", during), ("three again", after)):
            rate, p50, p99 = (statistics.median(column) for column in zip(*found))
            print(f"| {name} | {rate:,.0f} | {p50:.3f} | {p99:.3f} |")
    finally:
        cluster.close()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--snapshot", type=int, metavar="KEYS")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.snapshot:
            snapshot(arguments.snapshot, pathlib.Path(scratch))
        else:
            throughput(arguments, pathlib.Path(scratch))


if __name__ == "__main__":
    main()
