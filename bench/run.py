#!/usr/bin/env python3
"""InsiDB beside its peers on one node: see README.md in this folder.

Each round does all the work on each peer in turn (A B C A B C), so that whatever the machine does in the meantime is in all of
them. Reported are the medians of the rounds, and the ratios of medians.
"""

import argparse, json, os, pathlib, platform, statistics, subprocess, tempfile

import load, peers, pictures

# What each operation of InsiDB is measured beside.
BESIDE = {
    "set": ["redis-fsync", "etcd", "bare"],
    "get": ["bare", "redis-fsync", "etcd"],
    "cache set": ["bare", "redis-memory"],
    "cache get": ["bare", "redis-memory"],
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--connections", default="1,16,64,256,1024")
    arguments.add_argument("--values", default="100,1024,65536", help="bytes of a value")
    arguments.add_argument("--keys", type=int, default=10_000)
    arguments.add_argument("--operations", default=",".join(BESIDE))
    arguments.add_argument("--peers", default=",".join(peers.PEERS))
    arguments.add_argument("--out", type=pathlib.Path, default=peers.ROOT / "target" / "bench", help="where results and pictures go")
    arguments = arguments.parse_args()
    work = [(operation, int(value_bytes), int(connections))
            for value_bytes in arguments.values.split(",")
            for connections in arguments.connections.split(",")
            for operation in arguments.operations.split(",")]
    found = {}
    syncs = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        started = peers.start(arguments.peers.split(","), scratch)
        try:
            runner = Runner(scratch, arguments.keys, arguments.seconds)
            for value_bytes in dict.fromkeys(value_bytes for _, value_bytes, _ in work):
                for peer in started.values():
                    runner.fill(peer, value_bytes)
                for _ in range(arguments.rounds):
                    syncs += peers.fdatasync_seconds(scratch, 1)
                    for operation, _, connections in (each for each in work if each[1] == value_bytes):
                        for name in ["insid", *BESIDE[operation]]:
                            if name in started:
                                run = runner.run(started[name], operation, value_bytes, connections)
                                found.setdefault((operation, value_bytes, connections, name), []).append(run)
        finally:
            for peer in started.values():
                peer.stop()
    report(arguments, found, syncs)


class Runner:
    def __init__(self, scratch, keys, seconds):
        self.scratch, self.keys, self.seconds = scratch, keys, seconds
        # What a peer did in a second: redis-benchmark takes a number of requests, no time.
        self.rates = {}

    def fill(self, peer, value_bytes):
        """All keys, with values of this size."""
        if peer.protocol == "redis":
            load.redis_benchmark(peer.port, "set", self.keys, value_bytes, 64, 5 * self.keys)
        elif peer.name != "bare":
            for operation in ("fill", "cache fill") if peer.name == "insid" else ("fill",):
                seconds = self.seconds
                # A run goes through the keys from the first on: it has to get round.
                while self.wrk(peer, operation, value_bytes, 64, seconds)["requests"] < self.keys:
                    seconds *= 2

    def wrk(self, peer, operation, value_bytes, connections, seconds):
        path = self.scratch / "script.lua"
        path.write_text(load.script(self.keys, value_bytes, operation, peer.name, peer.key))
        return load.wrk(peer.address, path, connections, seconds)

    def run(self, peer, operation, value_bytes, connections):
        cpu_before = peer.cpu_seconds()
        if peer.protocol == "redis":
            work = (peer.name, operation, value_bytes, connections)
            requests = int(self.rates.get(work, 1_000) * self.seconds)
            if work not in self.rates:
                self.rates[work] = load.redis_benchmark(peer.port, operation, self.keys, value_bytes, connections, requests)["rate"]
                cpu_before = peer.cpu_seconds()
                requests = int(self.rates[work] * self.seconds)
            found = load.redis_benchmark(peer.port, operation, self.keys, value_bytes, connections, requests)
            self.rates[work] = found["rate"]
        else:
            found = self.wrk(peer, operation, value_bytes, connections, self.seconds)
        found["cpu_us"] = (peer.cpu_seconds() - cpu_before) / found["requests"] * 1e6
        found["resident_mib"] = peer.resident_bytes() / (1 << 20)
        return found


def median(runs, field):
    values = [run[field] for run in runs if run[field] is not None]
    return statistics.median(values) if values else None


def report(arguments, found, syncs):
    rows = []
    for (operation, value_bytes, connections, name), runs in found.items():
        row = {"operation": operation, "value_bytes": value_bytes, "connections": connections, "peer": name, "rounds": len(runs)}
        row |= {field: median(runs, field) for field in ("rate", "p50", "p99", "p999", "cpu_us", "resident_mib")}
        ours = median(found[operation, value_bytes, connections, "insid"], "rate") \
            if (operation, value_bytes, connections, "insid") in found else None
        row["insid_ratio"] = ours / row["rate"] if ours else None
        rows.append(row)
    sync_us = {"p50": syncs[len(syncs) // 2] * 1e6, "rate": len(syncs) / sum(syncs)} if (syncs := sorted(syncs)) else None
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "fdatasync": sync_us,
               "commit": subprocess.run(["git", "-C", peers.ROOT, "describe", "--always", "--dirty"],
                                        capture_output=True, text=True).stdout.strip()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    table = markdown(rows)
    (arguments.out / "results.md").write_text(table)
    for path in pictures.draw(rows, arguments.out):
        print(f"picture: {path}")
    if sync_us:
        print(f"a bare fdatasync: {sync_us['p50']:.0f} us in the median, {sync_us['rate']:,.0f} a second")
    print(table, end="")


def markdown(rows):
    def number(value, digits):
        return "" if value is None else f"{value:,.{digits}f}"
    lines = ["| operation | value | connections | of | /s | p50 ms | p99 ms | p99.9 ms | CPU us | MiB | InsiDB's rate to it |",
             "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        lines.append(
            f"| {row['operation']} | {row['value_bytes']:,} | {row['connections']:,} | {row['peer']} | {number(row['rate'], 0)} "
            f"| {number(row['p50'], 3)} | {number(row['p99'], 3)} | {number(row['p999'], 3)} | {number(row['cpu_us'], 1)} "
            f"| {number(row['resident_mib'], 0)} | {'' if row['peer'] == 'insid' else number(row['insid_ratio'], 2)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
