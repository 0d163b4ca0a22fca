"""Suites that are rounds: operations on data sets, each asked of each peer in turn (A B C A B C), so that whatever the machine
does in the meantime is in all of them. Reported are the medians of the rounds, and the ratios of medians.
"""

import os, pathlib, tempfile
from dataclasses import dataclass, field

import admin, operations, peers
from fill import fill
from load import Client
from processes import INSTALL, OutOfTime
from report import Table, median, spread

# What the estimate goes by, and nothing else: keys a second while a peer is filled, at most so many bytes a second.
FILLED_PER_S = {"redis-fsync": 150_000, "redis-memory": 150_000, "etcd": 15_000, "insid": 20_000, "tenants": 20_000, "three": 5_000}
FILLED_BYTES_PER_S = 40_000_000
START_S, BETWEEN_RUNS_S = 3, 0.5

COLUMNS = [("operation", "operation", None), ("value", "value_bytes", 0), ("keys", "keys", 0), ("connections", "connections", 0),
           ("of", "peer", None), ("/s", "rate", 0), ("spread %", "spread", 0), ("p50 ms", "p50", 3), ("p99 ms", "p99", 3),
           ("p99.9 ms", "p999", 3), ("CPU us", "cpu_us", 1), ("MiB", "resident_mib", 0), ("read from disk", "disk_read_bytes", 0), ("its sync us", "log_sync_us", 0), ("ratio", "ratio", 2), ("rounds", "rounds", 0)]


@dataclass
class Dataset:
    """Keys and values that are there before, on peers that are started for it, and what is asked of them."""

    works: list  # operations by name, with their connections
    peers: list
    keys: int = 10_000
    value_bytes: int = 100
    settings: dict = field(default_factory=dict)

    def stores(self):
        return list(dict.fromkeys(operations.named(name).store for name, _ in self.works))

    def asked(self):
        """Names of the peers that are asked anything, and of those what is missing for which."""
        wanted = [name for name in self.peers if any(operations.named(work).is_asked_of(name) for work, _ in self.works)]
        missing = peers.missing(wanted)
        return [name for name in wanted if name not in missing], missing

    def cost(self):
        """A guess, before anything is started: seconds for starting and filling, and how many runs a round has."""
        there, _ = self.asked()
        works = [operations.named(name) for name, _ in self.works]
        filling, runs = 0, 0
        for name in there:
            # These two are asked under two names each.
            names = 2 if name in ("tenants", "three") else 1
            runs += names * sum(operation.is_asked_of(name) for operation in works)
            if name != "bare":
                stores = len(self.stores()) if peers.is_ours(name) else 1
                rate = min(FILLED_PER_S.get(name, FILLED_PER_S["insid"]), FILLED_BYTES_PER_S / self.value_bytes)
                filling += stores * (2 if name == "tenants" else 1) * self.keys / rate
        return START_S * len(there) + filling, runs


class Matrix:
    """A suite of data sets. `plan` makes them out of the arguments; `summary`, if there is one, makes tables out of the rows."""

    needs = ("wrk",)

    def __init__(self, plan, summary=None):
        self.plan, self.summary, self.__doc__ = plan, summary, plan.__doc__

    def estimate(self, arguments):
        total = 0
        for dataset in self.plan(arguments):
            before, runs = dataset.cost()
            total += before + arguments.rounds * (1 + runs * (arguments.seconds + BETWEEN_RUNS_S))
        return total

    def run(self, context):
        """Tables, and rows for pictures."""
        rows = []
        try:
            for dataset in self.plan(context.arguments):
                measure(dataset, context, rows)
        except OutOfTime:
            context.note("The time was over before all was measured: what is missing, or has fewer rounds, was not.")
        rounds = context.arguments.rounds
        title = f"Medians of up to {rounds} rounds" if rounds > 1 else "One round"
        tables = [Table(f"{title} of {context.arguments.seconds} s", COLUMNS, rows)]
        if self.summary:
            tables = self.summary(rows) + tables
        return tables


def measure(dataset, context, rows):
    """Adds a row for each operation and peer; also when the time is over before the last round."""
    found = {}
    names, missing = dataset.asked()
    for name, needs in missing.items():
        how = "; ".join(f"{need}: {INSTALL[need]}" for need in needs)
        context.note(f"Left out: {name}, since not all that it needs is there ({how}).")
    print(f"{dataset.keys:,} keys of {dataset.value_bytes:,} bytes: {', '.join(names)}", flush=True)
    with tempfile.TemporaryDirectory(dir=context.scratch) as scratch_name:
        options = {"value_bytes": dataset.value_bytes, "settings": dataset.settings, "tenants": context.arguments.tenants}
        with peers.Started(names, scratch_name, **options) as started:
            client = Client(pathlib.Path(scratch_name), context.deadline)
            try:
                fill_all(dataset, started, client)
                for number in range(context.arguments.rounds):
                    print(f"  round {number + 1} of {context.arguments.rounds}", flush=True)
                    context.sync()
                    for name, connections in dataset.works:
                        operation = operations.named(name)
                        for peer in started.values():
                            if operation.is_asked_of(peer.name):
                                run = checked(client, peer, operation, dataset, connections, context.arguments.seconds)
                                found.setdefault((name, connections, peer.name), []).append(run)
                        if (name, connections) == ("set", 1):
                            found.setdefault((name, connections, "fdatasync"), []).append(bare_syncs(context))
            finally:
                rows += summed_up(dataset, found, started)


def bare_syncs(context):
    """What one durable set at a time cannot be faster than, as a run."""
    turns = sorted(context.sync(context.arguments.seconds))
    at = lambda share: turns[int(len(turns) * share)] * 1e3
    return {"requests": len(turns), "rate": len(turns) / sum(turns), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999)}


def fill_all(dataset, started, client):
    filled = set()
    for peer in started.values():
        # A cluster is one, whichever of its nodes is asked.
        who = (peer.processes[0], tuple(peer.api_keys))
        if peer.name == "bare" or who in filled:
            continue
        filled.add(who)
        for store in dataset.stores() if peer.is_ours else ["vs"]:
            fill(peer, store, dataset.keys, dataset.value_bytes, client.scratch, client.deadline)
    # What the filling left for the kernel to write is no part of what is measured, nor is what the kernel has put out of its
    # memory meanwhile (some put out whatever was idle for a minute): what is not cached is read from there, not from a disk.
    os.sync()
    for store in client.scratch.rglob("*.redb"):
        warm(store)


def warm(path):
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def checked(client, peer, operation, dataset, connections, run_seconds):
    """A run. Where refusals are expected, the node must not have refused for another reason."""
    before = admin.answers_by_status(peer.private) if operation.refusal and peer.private else {}
    syncs_before = admin.log_syncs(peer.private) if peer.private else None
    run = client.run(peer, operation, dataset.keys, dataset.value_bytes, connections, run_seconds)
    if syncs_before:
        count, seconds = (after - before for after, before in zip(admin.log_syncs(peer.private), syncs_before))
        run["log_sync_us"] = seconds / count * 1e6 if count else None
    if before:
        after = admin.answers_by_status(peer.private)
        others = {status: count - before.get(status, 0) for status, count in after.items() if status not in (200, operation.refusal)}
        if any(others.values()):
            raise SystemExit(f"answers that nobody expected, by status: {others}")
    return run


def summed_up(dataset, found, started):
    """A row for each operation and peer. The ratio is InsiDB's rate to that of another; of InsiDB in another form, its to the first's."""
    rows = []
    for (name, connections, peer), runs in found.items():
        row = {"operation": name, "value_bytes": dataset.value_bytes, "keys": dataset.keys, "connections": connections, "peer": peer,
               "rounds": len(runs), "spread": spread(runs, "rate"), "runs": runs}
        row |= {field: median(runs, field) for field in ("rate", "p50", "p99", "p999", "cpu_us", "resident_mib", "disk_read_bytes", "log_sync_us")}
        base = found.get((name, connections, "insid"))
        row["ratio"] = None
        if base and peer != "insid":
            ratio = row["rate"] / median(base, "rate")
            row["ratio"] = ratio if peer in started and started[peer].is_ours else 1 / ratio
        rows.append(row)
    return rows
