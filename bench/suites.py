"""The suites by name. Those that are rounds (`matrix.py`) are made here; each of the others has a file of its own."""

import failover, latency, memory, rebuild, startup
from matrix import Dataset, Matrix
from peers import build
from report import Table

BESIDE = ["insid", "bare", "redis-fsync", "redis-memory", "etcd"]
PLAIN = ["set", "get", "cache set", "cache get"]
# A durable set waits for an fdatasync: where a bare one took longer, the two did not find the same disk.
NO_SIGN = "says nothing: the bare fdatasync was slower than the set that waits for one"
# etcd is filled with more only by who has the time: `--peers` says so.
ETCD_KEYS_MAX = 1_000_000


def dataset(arguments, operations, connections, peers, **more):
    """A data set, with what the arguments say in place of the suite's own choice."""
    operations, connections = arguments.operations or operations, arguments.connections or connections
    works = [(operation, count) for count in connections for operation in operations]
    asked = [name for name in peers if not arguments.peers or name in arguments.peers]
    # Not beside three nodes: those are of this build.
    if "insid" in asked and "three" not in asked:
        asked[1:1] = map(build, arguments.builds)
    return Dataset(works, asked, **more)


def first(values, default):
    return (values or [default])[0]


def sized(arguments):
    """Keys and size of values of the suites that have one data set."""
    return {"keys": first(arguments.keys, 10_000), "value_bytes": first(arguments.values, 100)}


def table(arguments):
    """What design goals are about: 64 connections and one, 100 bytes, one node beside its peers, and three nodes"""
    sides = dataset(arguments, PLAIN, [64], BESIDE, **sized(arguments))
    # One bare round trip, and one bare fdatasync, are what a durable set at one connection is made of.
    sides.works += [("set", 1), ("get", 1)] if not arguments.connections else []
    three = dataset(arguments, ["set"], [64], ["insid", "three"], **sized(arguments))
    return [sides, three]


def sizes(arguments):
    """Values of 100 bytes, 1 KiB and 64 KiB"""
    return [dataset(arguments, PLAIN, [64], BESIDE, keys=first(arguments.keys, 10_000), value_bytes=value_bytes)
            for value_bytes in arguments.values or [100, 1024, 65_536]]


def connections(arguments):
    """1 to 1,024 connections"""
    return [dataset(arguments, PLAIN, [1, 16, 64, 256, 1024], BESIDE, **sized(arguments))]


def keys(arguments):
    """10 thousand, 1 million and 10 million keys; more than the caches hold only with values of 100 bytes, and not in the Cache"""
    found = []
    for count in arguments.keys or [10_000, 1_000_000, 10_000_000]:
        for value_bytes in arguments.values or [100, 1024]:
            if count > 1_000_000 and value_bytes > 100 and not arguments.values:
                continue
            operations = PLAIN if count * (20 + value_bytes) < 1 << 30 else ["set", "get"]
            peers = [name for name in BESIDE if (name != "etcd" or count <= ETCD_KEYS_MAX)
                     and (name != "redis-memory" or "cache set" in operations)]
            found.append(dataset(arguments, operations, [64], peers, keys=count, value_bytes=value_bytes))
    return found


def mixes(arguments):
    """95 gets to 5 sets, and as many of one as of the other"""
    operations = ["mix 95/5", "mix 50/50", "cache mix 95/5", "cache mix 50/50"]
    return [dataset(arguments, operations, [64], ["insid", "bare", "etcd"], **sized(arguments))]


def hot(arguments):
    """setnx (refused), cas (done) and bump by all connections on one key"""
    operations = ["bump", "setnx", "cas", "cache setnx", "cache cas"]
    return [dataset(arguments, operations, [1, 64], [name for name in BESIDE if name != "bare"], **sized(arguments))]


def iterate(arguments):
    """Pages of 100 and 1,000 keys: the first, one deep down by its offset, and one behind a random key"""
    count = first(arguments.keys, 1_000_000)
    pages = [f"iterate {limit}{where}" for limit in (100, 1000) for where in ("", f" at {count // 10}", " after")]
    operations = pages + [f"cache {page}" for page in pages]
    return [dataset(arguments, operations, [16], ["insid", "etcd"], keys=count, value_bytes=first(arguments.values, 100))]


def tenants(arguments):
    """One tenant, and 10,000 (`--tenants`) that share as many keys and the same requests"""
    count = first(arguments.keys, 10 * arguments.tenants)
    return [dataset(arguments, PLAIN, [64], ["tenants"], keys=count, value_bytes=first(arguments.values, 100))]


def cluster(arguments):
    """One node, and three through the leader and through a follower, all on this machine"""
    return [dataset(arguments, PLAIN, [1, 16, 64, 256], ["insid", "three"], **sized(arguments))]


def goals(rows):
    """The table of goals. A ratio is of InsiDB to what it is told beside."""
    of, found = {}, []
    for row in rows:
        # One node is there twice: beside its peers first, and then beside three.
        of.setdefault((row["operation"], row["connections"], row["peer"]), row)

    def add(what, ours, beside, field, goal=None):
        if ours in of and beside in of:
            found.append({"what": what, "ours": of[ours][field], "theirs": of[beside][field],
                          "ratio": of[ours][field] / of[beside][field], "goal": goal})

    set_at_one, bare_at_one, sync_at_one = (("set", 1, name) for name in ("insid", "bare", "fdatasync"))
    add("durable set /s, 64 connections, to Redis with fsync", ("set", 64, "insid"), ("set", 64, "redis-fsync"), "rate", "at least 1")
    add("durable set /s, 64 connections, to etcd", ("set", 64, "insid"), ("set", 64, "etcd"), "rate")
    if set_at_one in of and bare_at_one in of:
        parts = of[sync_at_one]["p50"] + of[bare_at_one]["p50"]
        found.append({"what": "durable set p50 ms, 1 connection, to a bare fdatasync and a bare POST", "ours": of[set_at_one]["p50"],
                      "theirs": parts, "ratio": of[set_at_one]["p50"] / parts, "goal": "at most 1.3" if of[set_at_one]["p50"] > of[sync_at_one]["p50"] else NO_SIGN})
    add("durable set p50 ms, 1 connection, to Redis with fsync", set_at_one, ("set", 1, "redis-fsync"), "p50")
    for name in ("get", "cache get"):
        # A get of nothing is the same for both stores.
        add(f"{name} /s, 64 connections, to the bare handler", (name, 64, "insid"), (name, 64, "bare"), "rate", "at least 0.95")
        redis = "redis-memory" if "cache" in name else "redis-fsync"
        add(f"{name} /s, 64 connections, to Redis", (name, 64, "insid"), (name, 64, redis), "rate")
    add("get /s, 64 connections, to etcd", ("get", 64, "insid"), ("get", 64, "etcd"), "rate")
    add("cache set /s, 64 connections, to the bare handler", ("cache set", 64, "insid"), ("cache set", 64, "bare"), "rate", "at least 0.9")
    add("cache set /s, 64 connections, to Redis without fsync", ("cache set", 64, "insid"), ("cache set", 64, "redis-memory"), "rate")
    for through in ("leader of three", "follower of three"):
        if three := of.get(("set", 64, through)):
            found.append({"what": f"durable set /s, 64 connections, {through}, to one node", "ours": three["rate"],
                          "theirs": three["rate"] / three["ratio"], "ratio": three["ratio"], "goal": None})
    columns = [("what", "what", None), ("InsiDB", "ours", 3), ("beside", "theirs", 3), ("ratio", "ratio", 2), ("goal", "goal", None)]
    return [Table("What the goals are about", columns, found)]


# Those that ask one node, beside its peers or alone.
TAKE_BUILDS = ("table", "sizes", "connections", "keys", "mixes", "hot", "iterate", "startup")
ROUNDS = {plan.__name__: Matrix(plan) for plan in (sizes, connections, keys, mixes, hot, iterate, tenants, cluster)}
SUITES = {"table": Matrix(table, goals), **ROUNDS, "memory": memory, "latency": latency, "startup": startup,
          "failover": failover, "rebuild": rebuild}
