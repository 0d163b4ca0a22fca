#!/usr/bin/env python3
"""InsiDB measured beside its peers, in suites: see README.md in this folder.

It starts everything itself, on free loopback ports with data in a fresh directory, and leaves nothing running.
"""

import argparse, contextlib, pathlib, signal, sys, tempfile

import machine, pictures, report
from deadline import Deadline
from peers import PEERS
from processes import ROOT, OutOfTime, Process, demand
from suites import SUITES, TAKE_BUILDS

SYNC_S = 1


class Context:
    """What a suite is run with, and what it adds to its report beside tables."""

    def __init__(self, arguments, scratch, out, deadline):
        self.arguments, self.scratch, self.out, self.deadline = arguments, scratch, out, deadline
        self.notes, self.syncs = [], []

    def note(self, text):
        if text not in self.notes:
            print(f"  {text}", flush=True)
            self.notes.append(text)

    def sync(self, seconds=SYNC_S):
        """One more look at what the disk can do: the seconds of each turn of a bare loop."""
        turns = machine.fdatasync_seconds(self.scratch, seconds)
        self.syncs.append(turns)
        return turns

    def picture(self, name, svg):
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / name).write_text(svg)


def at_least(least):
    """Takes a whole number that is not lower."""
    def number(text):
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"at least {least} is expected")
        return value
    number.__name__ = "whole number"
    return number


def listed(kind):
    def parts(text):
        return [kind(part.strip()) for part in text.split(",")]
    parts.__name__ = f"list of {kind.__name__}s"
    return parts


def parse():
    suites = "\n".join(f"  {name:12} {suite.__doc__.strip()}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"suites:\n{suites}", formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--suite", type=listed(str), default=["table"], metavar="NAME[,NAME…]", help="what to measure, or `all` [table]")
    add("--rounds", type=at_least(1), default=3, help="[3]")
    add("--seconds", type=at_least(1), default=5, help="of each run [5]")
    add("--connections", type=listed(at_least(1)), help="in place of the suite's")
    add("--values", type=listed(at_least(1)), metavar="BYTES", help="sizes of values, in place of the suite's")
    add("--keys", type=listed(at_least(1)), help="numbers of keys, in place of the suite's")
    add("--operations", type=listed(str), help="in place of the suite's: as `set`, `cache get`, `mix 95/5`, `iterate 100 after`")
    add("--peers", type=listed(str), help=f"only these of the suite's: {', '.join(PEERS)}")
    add("--builds", type=listed(pathlib.Path), default=[], metavar="DIR[,DIR…]", help="the `insid` of these folders too, in turns with this one")
    add("--tenants", type=at_least(1), default=10_000, help="of the suite tenants [10000]")
    add("--open-seconds", type=at_least(1), help="of the open loop of the suite latency [60]")
    add("--trials", type=at_least(1), help="of the suite failover [20]")
    add("--batch", action="store_true", help="start what is measured under Linux's policy for batch work (chrt --batch 0); not the clients")
    add("--minutes", type=float, default=120, help="the most that all of it may take; what is found by then is reported [120]")
    add("--dry-run", action="store_true", help="say how long it would take, about, and end")
    add("--dir", type=pathlib.Path, help="where data lies meanwhile, on the disk that is to be measured [the system's for temporary files]")
    add("--out", type=pathlib.Path, default=ROOT / "target" / "bench", help="where results and pictures go, in a folder for each suite")
    arguments = parser.parse_args()
    if arguments.suite == ["all"]:
        arguments.suite = list(SUITES)
    arguments.suite = list(dict.fromkeys(arguments.suite))
    if unknown := [name for name in arguments.suite if name not in SUITES]:
        parser.error(f"no suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    arguments.builds = list(dict.fromkeys(folder.resolve() for folder in arguments.builds))
    if without := [folder for folder in arguments.builds if not (folder / "insid").is_file()]:
        parser.error(f"--builds takes folders that hold an `insid`, as target/release does; none is in {', '.join(map(str, without))}")
    if arguments.builds and (deaf := [name for name in arguments.suite if name not in TAKE_BUILDS]):
        parser.error(f"--builds is for {', '.join(TAKE_BUILDS)}, not for {', '.join(deaf)}")
    if arguments.builds and arguments.peers and "insid" not in arguments.peers:
        parser.error("--builds stands beside insid: --peers has to name it")
    if unknown := [name for name in arguments.peers or [] if name not in PEERS]:
        parser.error(f"no peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if arguments.minutes <= 0:
        parser.error("--minutes has to be more than 0")
    if arguments.dir and not arguments.dir.is_dir():
        parser.error(f"--dir takes a directory that is there, which {arguments.dir} is not")
    if not arguments.dry_run:
        try:
            # Before all is measured, and could not be written down.
            arguments.out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=arguments.out).close()
        except OSError as error:
            parser.error(f"--out takes a directory that can be written to: {error}")
    return arguments


def main():
    arguments = parse()
    # Its `finally` and `with` run, and so what was started ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if not arguments.dry_run:
        demand("insid", *dict.fromkeys(need for name in arguments.suite for need in SUITES[name].needs))
    total = 0
    for name in arguments.suite:
        seconds = SUITES[name].estimate(arguments)
        total += seconds
        print(f"suite {name}: about {seconds / 60:.0f} min")
    if total > arguments.minutes * 60:
        print(f"that is more than --minutes {arguments.minutes:g}: not all will be measured")
    if arguments.dry_run:
        return
    if arguments.batch:
        Process.under = ("chrt", "--batch", "0")
    deadline = Deadline(arguments.minutes * 60)
    for name in arguments.suite:
        with tempfile.TemporaryDirectory(prefix="insidb-bench-", dir=arguments.dir) as scratch:
            run(name, Context(arguments, pathlib.Path(scratch), arguments.out / name, deadline))


def run(name, context):
    kind = machine.file_system(context.scratch)
    if kind in machine.IN_MEMORY:
        raise SystemExit(f"{context.scratch} is on {kind}, where nothing is durable: give a directory on a disk with --dir")
    print(f"\nsuite {name}", flush=True)
    if context.arguments.batch:
        context.note("All that is measured, not the clients, runs under Linux's policy for batch work.")
    with contextlib.suppress(OutOfTime):
        context.sync()
        tables = SUITES[name].run(context)
        print()
        print(report.write(context, name, tables), end="")
        for path in pictures.draw([row for table in tables for row in table.rows], context):
            print(f"picture: {path}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
