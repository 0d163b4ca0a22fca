"""Durable sets at half of the peak rate, each due at its time (an open loop), while checkpoints run: latency over time"""

import json, subprocess, time

import admin, peers, pictures
from fill import settle
from processes import ENVIRONMENT, OutOfTime, end_with_parent, output, program
from report import Table, median

KEYS, VALUE_BYTES, CONNECTIONS = 1_000_000, 100, 64
OPEN_LOOP_S = 60
# Of what stands beside it.
BESIDE_S = 10
LOOK_S = 0.1
needs = ("insic", "bare")
COLUMNS = [("round", "round", None), ("peak /s", "peak", 0), ("asked /s", "asked", 0), ("served /s", "rate", 0), ("p50 ms", "p50", 3),
           ("p99 ms", "p99", 3), ("p99.9 ms", "p999", 3), ("most ms", "most", 1), ("p99 ms of the worst second", "worst", 2),
           ("checkpoints", "checkpoints", 0), ("not served", "lost", 0),
           ("p99.9 ms of a bare POST at that rate", "bare", 3), ("of a bare fdatasync", "sync", 3)]


def estimate(arguments):
    return 10 + key_count(arguments) / 20_000 + arguments.rounds * (arguments.seconds + open_loop_s(arguments) + 2 * BESIDE_S + 3)


def key_count(arguments):
    return (arguments.keys or [KEYS])[0]


def open_loop_s(arguments):
    return arguments.open_seconds or OPEN_LOOP_S


def run(context):
    rows = []
    try:
        with peers.One("insid", context.scratch) as insid, peers.One("bare", context.scratch) as bare:
            # It looks at none, and whoever asks has one.
            bare.api_keys = insid.api_keys
            bench(context, insid, key_count(context.arguments) / 20_000 + 1, "--fill", "--duration", "1s")
            for number in range(1, context.arguments.rounds + 1):
                rows.append(measure(context, insid, number))
                settle(insid, context.deadline)
                rows[-1] |= beside(context, bare, rows[-1]["asked"])
    except OutOfTime:
        context.note("The time was over before the last round.")
    if rows:
        middle = {field: median(rows, field) for _, field, digits in COLUMNS if digits is not None}
        rows.append({"round": "median"} | middle)
    return [Table(f"Durable set, {key_count(context.arguments):,} keys, values of {VALUE_BYTES} bytes, {CONNECTIONS} connections", COLUMNS, rows)]


def measure(context, insid, number):
    """The peak, then the open loop at half of it, as a row; and a picture."""
    seconds, open_s = context.arguments.seconds, open_loop_s(context.arguments)
    peak = bench(context, insid, seconds, "--duration", f"{seconds}s")["rate"]
    asked = max(1, int(peak / 2))
    print(f"  round {number} of {context.arguments.rounds}: {peak:,.0f}/s at the peak; {asked:,}/s for {open_s} s", flush=True)
    found, ends = watched(context, insid, "--duration", f"{open_s}s", "--rate", str(asked), "--series")
    title = f"durable set, {asked:,} a second: latency over time (dashed: a checkpoint ended)"
    context.picture(f"over-time-{number}.svg", pictures.over_time(title, found["series"], ends))
    for note in found["notes"]:
        context.note(f"Round {number}: {note}.")
    latency, requests = found["latency_us"], found["requests"]
    return {"round": number, "peak": peak, "asked": asked, "rate": found["rate"], "p50": latency["p50"] / 1e3,
            "p99": latency["p99"] / 1e3, "p999": latency["p99_9"] / 1e3, "most": latency["max"] / 1e3,
            "worst": max(second["p99_us"] or 0 for second in found["series"]) / 1e3, "checkpoints": len(ends),
            "lost": sum(requests[name] for name in ("refused", "failed", "unanswered", "unsent")),
            "series": found["series"], "checkpoint_ends": ends}


def beside(context, bare, rate):
    """What the same open loop finds of a bare handler, and what a bare fdatasync takes; the node is idle meanwhile."""
    loop = bench(context, bare, BESIDE_S, "--duration", f"{BESIDE_S}s", "--rate", str(rate))
    turns = sorted(context.sync(BESIDE_S))
    return {"bare": loop["latency_us"]["p99_9"] / 1e3, "sync": turns[int(len(turns) * 0.999)] * 1e3}


def command(context, insid, *more):
    keys = context.scratch / "insic.keys"
    keys.write_text("\n".join(insid.api_keys) + "\n")
    return [program("insic"), "--json", "--url", f"http://{insid.address}", "bench", "--op", "set", "--keys", key_count(context.arguments),
            "--value-size", VALUE_BYTES, "--connections", CONNECTIONS, "--api-keys-file", keys, *more]


def bench(context, insid, seconds, *more):
    """What `insic bench` found, in about so many seconds."""
    if context.deadline.is_past(seconds):
        raise OutOfTime
    return json.loads(output(command(context, insid, *more), 10 * seconds + 60))


def watched(context, insid, *more):
    """What `insic bench` found, and when checkpoints ended meanwhile, in seconds from its start."""
    if context.deadline.is_past(open_loop_s(context.arguments)):
        raise OutOfTime
    found = context.scratch / "insic.json"
    with open(found, "w") as out:
        child = subprocess.Popen([str(word) for word in command(context, insid, *more)], stdout=out, stdin=subprocess.DEVNULL,
                                 env=ENVIRONMENT, preexec_fn=end_with_parent)
    began, ends, age_before = time.monotonic(), [], float("inf")
    try:
        while child.poll() is None:
            age = checkpoint_age_s(insid.private)
            if age < age_before and age_before != float("inf"):
                ends.append(time.monotonic() - began - age)
            age_before = age
            time.sleep(LOOK_S)
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        raise SystemExit(f"insic bench ended with {child.returncode}:\n{found.read_text()[-2000:]}")
    return json.loads(found.read_text()), ends


def checkpoint_age_s(private):
    return admin.metrics(private)["insidb_checkpoint_age_seconds"]
