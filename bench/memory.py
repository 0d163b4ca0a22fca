"""Resident memory: the Cache with a million entries beside Redis without persistence, and the Value Store with more than it caches"""

import pathlib, statistics, tempfile

import operations, peers
from fill import fill, settle
from load import Client
from processes import OutOfTime
from report import Table

MIB = 1 << 20
KEY_BYTES, VALUE_BYTES = 20, 100
CACHE_KEYS, VALUES_KEYS = 1_000_000, 10_000_000
# The defaults, given so that they are known.
BOUNDS = {"values_page_cache_bytes": 256 * MIB, "values_dirty_bytes_max": 256 * MIB}
needs = ("wrk",)


def counts(arguments):
    return min(arguments.keys or [CACHE_KEYS]), max(arguments.keys or [VALUES_KEYS])


def estimate(arguments):
    cache_keys, values_keys = counts(arguments)
    return arguments.rounds * (cache_keys / 15_000 + 10) + values_keys / 20_000 + 4 * arguments.seconds + 30


def run(context):
    tables = []
    try:
        for measure in (cache, values):
            measure(context, tables)
    except OutOfTime:
        context.note("The time was over before all was measured.")
    return tables


def cache(context, tables):
    count, _ = counts(context.arguments)
    found = {}
    for number in range(context.arguments.rounds):
        for name in ("insid", "redis-memory"):
            if name in peers.missing([name]):
                context.note(f"Left out: {name}, which is not there.")
                continue
            with tempfile.TemporaryDirectory(dir=context.scratch) as home, peers.One(name, home) as peer:
                before = peer.resident_bytes()
                fill(peer, "cache", count, VALUE_BYTES, pathlib.Path(home), context.deadline)
                found.setdefault(name, []).append((before, peer.resident_bytes()))
    rows = []
    for name, pairs in found.items():
        before, after = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
        rows.append({"of": name, "before": before / MIB, "after": after / MIB, "bytes": (after - before) / count, "rounds": len(pairs),
                     "to_redis": None})
    if len(rows) == 2:
        rows[0]["to_redis"] = rows[0]["after"] / rows[1]["after"]
    tables.append(Table(f"The Cache with {count:,} entries of {KEY_BYTES} and {VALUE_BYTES} bytes", [
        ("of", "of", None), ("empty, MiB", "before", 1), ("full, MiB", "after", 1), ("bytes for each entry", "bytes", 0),
        ("full, to Redis", "to_redis", 2), ("rounds", "rounds", 0)], rows))


def values(context, tables):
    _, count = counts(context.arguments)
    rows = []
    tables.append(Table(
        f"The Value Store with {count:,} entries of {KEY_BYTES} and {VALUE_BYTES} bytes, {count * (KEY_BYTES + VALUE_BYTES) / MIB:,.0f} MiB; "
        f"configured to hold {sum(BOUNDS.values()) / MIB:,.0f} MiB of them", [
            ("after", "after", None), ("resident, MiB", "resident", 0), ("most so far, MiB", "most", 0),
            ("resident, to what is configured", "ratio", 2), ("store file, MiB", "file", 0)], rows))
    home = context.scratch
    with peers.One("insid", home, BOUNDS) as peer:
        def look(after):
            resident = peer.resident_bytes()
            rows.append({"after": after, "resident": resident / MIB, "most": peer.resident_bytes("VmHWM") / MIB,
                         "ratio": resident / sum(BOUNDS.values()),
                         "file": sum(path.stat().st_size for path in (home / "insid" / "store").iterdir()) / MIB})
        look("the start")
        fill(peer, "vs", count, VALUE_BYTES, home, context.deadline)
        look("filling")
        client = Client(home, context.deadline)
        for name in ("get", "set", "mix 50/50"):
            client.run(peer, operations.named(name), count, VALUE_BYTES, 64, context.arguments.seconds)
            look(f"{context.arguments.seconds} s of {name} at 64 connections, random keys")
        settle(peer, context.deadline)
        look("a rest")

