"""How long a start takes after an orderly end, and after SIGKILL just before a checkpoint would have ended"""

import shutil, signal, statistics, subprocess, time

import load, peers
from fill import fill
from latency import checkpoint_age_s
from operations import named
from processes import ENVIRONMENT, OutOfTime, end_with_parent
from report import Table

MIB = 1 << 20
KEYS, VALUE_BYTES, CONNECTIONS = 1_000_000, 100, 64
# A checkpoint ends so long after the last one, in parts of the time between the two before, when the node is killed.
MOMENT = 0.95
ORDERLY_LOAD_S = 5
BOUND = {"values_dirty_bytes_max": 256 * MIB}
# How each is ended, and the settings: with rare checkpoints the log is as long as it gets.
WAYS = {"SIGTERM": (signal.SIGTERM, BOUND | {"checkpoint_bytes": 48 * MIB}),
        "SIGKILL before a checkpoint ends": (signal.SIGKILL, BOUND | {"checkpoint_bytes": 48 * MIB}),
        "SIGKILL with a full log": (signal.SIGKILL, BOUND | {"checkpoint_bytes": 256 * MIB, "checkpoint_interval_ms": 3_600_000})}
needs = ("wrk",)
COLUMNS = [("ended by", "way", None), ("checkpoint_bytes, MiB", "checkpoint_mib", 0), ("log then, MiB", "log_mib", 0),
           ("ready after, ms: median", "median_ms", 0), ("worst", "worst_ms", 0), ("resident then, MiB", "resident_mib", 0),
           ("starts", "starts", 0)]


def estimate(arguments):
    # Two checkpoints, at some 5 MiB of log a second.
    other_starts_s = 15 * (len(arguments.builds) + 1) if arguments.builds else 0
    return (arguments.keys or [KEYS])[0] / 20_000 + arguments.rounds * (20 + 2 * 48 / 5 + 2 * 256 / 5 + other_starts_s)


def run(context):
    count = (context.arguments.keys or [KEYS])[0]
    found = {}
    try:
        with peers.One("insid", context.scratch, WAYS["SIGTERM"][1]) as node:
            fill(node, "vs", count, VALUE_BYTES, context.scratch, context.deadline)
            for number in range(context.arguments.rounds):
                for way in WAYS:
                    print(f"  round {number + 1} of {context.arguments.rounds}: {way}", flush=True)
                    for program, start in end_and_start(node, context, count, number, *WAYS[way]):
                        found.setdefault((way, program), []).append(start)
    except OutOfTime:
        context.note("The time was over before the last round.")
    rows = []
    for (way, program), starts in found.items():
        took, log, resident = ([start[place] for start in starts] for place in range(3))
        rows.append({"way": way, "program": program, "checkpoint_mib": WAYS[way][1]["checkpoint_bytes"] / MIB,
                     "log_mib": statistics.median(log), "median_ms": statistics.median(took), "worst_ms": max(took),
                     "resident_mib": statistics.median(resident), "starts": len(starts), "each_ms": took})
    columns = COLUMNS[:1] + [("started by", "program", None)] + COLUMNS[1:] if context.arguments.builds else COLUMNS
    return [Table(f"From exec until a node with {count:,} keys serves linearizable reads, ended under durable sets", columns, rows)]


def end_and_start(node, context, count, number, kind, settings):
    """Who starts, the milliseconds that it takes, and the MiB of the log before and of resident memory behind it.

    Where there are other builds, each starts with a copy of what was left, and so does this one; each at each place in turn.
    """
    data = context.scratch / "insid"
    node.stop()
    start(node, data, settings)
    path = load.script(context.scratch, node, named("set"), count, VALUE_BYTES)
    wrk = subprocess.Popen([str(word) for word in load.wrk_command(node.address, path, CONNECTIONS, 86_400)], env=ENVIRONMENT,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=end_with_parent)
    try:
        if kind == signal.SIGKILL:
            await_bad_moment(node, context.deadline)
            node.processes[0].kill()
        else:
            time.sleep(ORDERLY_LOAD_S)
            node.stop()
    finally:
        wrk.kill()
        wrk.wait()
    log_mib = sum(path.stat().st_size for path in (data / "log").iterdir()) / MIB
    builds = [None, *context.arguments.builds]
    starts, copy = [], context.scratch / "copy"
    for build in builds[number % len(builds):] + builds[:number % len(builds)] if len(builds) > 1 else []:
        shutil.copytree(data, copy)
        # What was just written does not go to the disk while the start is measured.
        subprocess.run(["sync"], check=True)
        took = start(node, copy, settings, build)
        starts.append((peers.build(build) if build else "insid", (took * 1000, log_mib, node.resident_bytes() / MIB)))
        node.processes[0].kill()
        shutil.rmtree(copy)
    took = start(node, data, settings)
    return starts or [("insid", (took * 1000, log_mib, node.resident_bytes() / MIB))]


def start(node, data, settings, build=None):
    """Seconds."""
    began = time.monotonic()
    node.processes[0], addresses = peers.insid_dev(data, settings, build and build / "insid")
    took = time.monotonic() - began
    node.address, node.private = addresses["public"], addresses["private"]
    return took


def await_bad_moment(node, deadline):
    """Returns when the checkpoint that runs has used up most of the time that it may be expected to take."""
    # Nothing was there to be checkpointed when the load began: that is as good as an end.
    ends, age_before = [time.monotonic()], 0
    while len(ends) < 2 or time.monotonic() - ends[-1] < MOMENT * (ends[-1] - ends[-2]):
        if deadline.is_past():
            raise OutOfTime
        age = checkpoint_age_s(node.private)
        if age < age_before:
            ends.append(time.monotonic() - age)
        age_before = age
        time.sleep(0.02)
