"""Three nodes: from SIGKILL of the one that leads a store's group to the next acknowledged write through another node"""

import http.client, json, statistics, time

from local import Cluster
from processes import OutOfTime
from report import Table

TRIALS = 20
STORES = {"vs": "Value Store", "cache": "Cache"}
needs = ()
COLUMNS = [("writes to", "store", None), ("trials", "trials", 0), ("median ms", "median_ms", 0), ("worst ms", "worst_ms", 0),
           ("refusals meanwhile, median", "refusals", 0)]


def trial_count(arguments):
    return arguments.trials or TRIALS


def estimate(arguments):
    return 10 + trial_count(arguments) * len(STORES) * 6


def run(context):
    trials = {store: [] for store in STORES}
    try:
        with Cluster(context.scratch, 3) as cluster:
            for number in range(trial_count(context.arguments)):
                for store, found in trials.items():
                    if context.deadline.is_past(10):
                        raise OutOfTime
                    found.append(trial(cluster, number, store))
    except OutOfTime:
        context.note("The time was over before the last trial.")
    rows = []
    for store, found in trials.items():
        times, refusals = ([row[column] for row in found] for column in (0, 1))
        if times:
            rows.append({"store": STORES[store], "trials": len(times), "median_ms": statistics.median(times) * 1000,
                         "worst_ms": max(times) * 1000, "refusals": statistics.median(refusals), "each_ms": [took * 1000 for took in times]})
    return [Table("From SIGKILL of the leader to the next acknowledged write", COLUMNS, rows)]


def trial(cluster, number, store):
    leader = cluster.leader(store)
    others = [node for node in cluster.nodes if node is not leader]
    cluster.kill(leader)
    found = next_write(others[number % len(others)], store, cluster.key, time.monotonic())
    cluster.spawn(leader)
    cluster.await_whole()
    return found


def next_write(node, store, key, killed_at):
    """Seconds from the kill to the next acknowledged write, and how many were refused before."""
    body = json.dumps({"key": "k", "value": "v"})
    connection, refused = None, 0
    while time.monotonic() < killed_at + 30:
        try:
            if connection is None:
                host, port = node.public.split(":")
                connection = http.client.HTTPConnection(host, int(port), timeout=10)
            connection.request("POST", f"/db/api/v1/{store}", body, {"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return time.monotonic() - killed_at, refused
            refused += 1
            time.sleep(0.002)
        except (OSError, http.client.HTTPException):
            connection = None
    raise SystemExit(f"no write to {store} within 30 s")
