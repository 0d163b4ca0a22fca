"""Three nodes: a follower is killed, its data removed, and it is rebuilt from a snapshot while sets go on through the leader"""

import shutil, statistics, threading, time

import load
from fill import fill
from local import Cluster
from operations import named
from peers import OfThree
from processes import OutOfTime
from report import Table

KEYS, VALUE_BYTES, CONNECTIONS = 1_000_000, 100, 16
SET_KEYS = 10_000
needs = ("wrk",)
COLUMNS = [("durable set, 16 connections", "phase", None), ("seconds", "seconds", 0), ("/s", "rate", 0), ("p50 ms", "p50", 2),
           ("p99 ms", "p99", 2), ("p99 ms of the worst second", "worst", 2)]


def estimate(arguments):
    return 30 + (arguments.keys or [KEYS])[0] / 5_000 + 2 * arguments.seconds + 20


def run(context):
    count, rows = (context.arguments.keys or [KEYS])[0], []
    try:
        with Cluster(context.scratch, 3) as cluster:
            rebuild(cluster, context, count, rows)
    except OutOfTime:
        context.note("The time was over before all was measured.")
    return [Table(f"While a follower with {count:,} keys is rebuilt", COLUMNS, rows)]


def rebuild(cluster, context, count, rows):
    asked = OfThree("leader of three", cluster, leads=True)
    fill(asked, "vs", count, VALUE_BYTES, context.scratch, context.deadline)
    cluster.await_whole()
    follower = next(node for node in cluster.nodes if node is not asked.leaders["vs"])

    def phase(name, seconds_min, until=None):
        """Runs of a second: so many, and on until the event is set."""
        runs = []
        while len(runs) < seconds_min or (until and not until.is_set()):
            if context.deadline.is_past(1):
                raise OutOfTime
            runs.append(load.wrk(asked, named("set"), context.scratch, SET_KEYS, VALUE_BYTES, CONNECTIONS, 1))
        rates, p50s, p99s = ([run[field] for run in runs] for field in ("rate", "p50", "p99"))
        rows.append({"phase": name, "seconds": len(runs), "rate": statistics.median(rates), "p50": statistics.median(p50s),
                     "p99": statistics.median(p99s), "worst": max(p99s), "runs": runs})

    phase("before", context.arguments.seconds)
    cluster.kill(follower)
    shutil.rmtree(follower.data)
    began = time.monotonic()
    cluster.spawn(follower)
    rebuilt, took = threading.Event(), []

    def watch():
        try:
            cluster.await_whole(600, equal=False)
            took.append(time.monotonic() - began)
        finally:
            rebuilt.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    phase("while the follower is rebuilt", 1, rebuilt)
    watcher.join()
    if not took:
        raise SystemExit("the follower was not rebuilt")
    context.note(f"The follower voted again {took[0]:.1f} s after it was started empty.")
    phase("after", context.arguments.seconds)
