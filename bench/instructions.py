#!/usr/bin/env python3
"""How many instructions InsiDB's own code takes on its hottest paths, and whether that is more than before.

A node runs under callgrind; one client asks it, one request at a time, so that what is counted repeats itself. Counted is what is
spent in a function and in all that it calls, by the calls of one phase:

    get, set         the request's way through the HTTP layers to the answer, without hyper and without other tasks
    apply            one entry with one set, from the log into the state
    append           the sync thread's part of one set: the record, and its way to the disk

More than 5 % above `instructions.json` is a failure, which names the function; a change that is worth its instructions changes
that file (`--update`). They are counts of a development build, which is what the tests build anyway: less noise than any clock has.
"""

import argparse, http.client, json, pathlib, re, subprocess, sys, tempfile

import admin, peers
from processes import ROOT, Process

BASELINE = pathlib.Path(__file__).with_name("instructions.json")
GROWTH_MAX = 0.05
REQUESTS = 300
# By path: the phase that is looked at, and the function. What a function is called has to stay what it is here.
PATHS = {
    "get": ("get", "server::listen::Connection::answer::{{closure}}"),
    "set": ("set", "server::listen::Connection::answer::{{closure}}"),
    "apply": ("set", "consensus::state_machine::Machine<E>::apply_chunk"),
    "append": ("set", "consensus::log::disk::writer::Writer::write"),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--insid", type=pathlib.Path, default=ROOT / "target" / "debug" / "insid")
    arguments.add_argument("--update", action="store_true", help="write what was counted down as what is expected")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = count(arguments.insid, pathlib.Path(scratch))
    if arguments.update:
        BASELINE.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(BASELINE.read_text())
    grown = []
    print(f"{'path':8} {'expected':>10} {'found':>10}")
    for path, instructions in found.items():
        growth = instructions / expected[path] - 1
        print(f"{path:8} {expected[path]:10,} {instructions:10,} {growth:+7.1%}")
        if growth > GROWTH_MAX:
            grown.append(path)
    if grown:
        sys.exit(f"{', '.join(grown)}: more instructions than {BASELINE.name} has; find out why, or run with --update and say why")


def count(insid, scratch):
    """Instructions of one operation, by path."""
    data = scratch / "data"
    command = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={scratch}/counts", f"--log-file={scratch}/valgrind",
               insid, "dev", "--data-dir", data, "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]
    node = Process("insid under valgrind", command, scratch / "insid.log")
    try:
        addresses = node.wait_for("insid under valgrind", lambda: peers.read_json(data / "addresses.json"), 120)
        [key] = admin.create_keys(addresses["private"], peers.root_key(data), 1)
        client = Client(addresses["public"], key)
        for _ in range(20):
            client.set()
            client.get()
        costs = {}
        for dump, phase in enumerate(("get", "set"), 1):
            control("--zero", node.child.pid)
            for _ in range(REQUESTS):
                getattr(client, phase)()
            control(f"--dump={phase}", node.child.pid)
            costs[phase] = inclusive(scratch / f"counts.{dump}")
    finally:
        node.kill()
    found = {}
    for path, (phase, function) in PATHS.items():
        if function not in costs[phase]:
            sys.exit(f"{function} was not called in the phase {phase}, or has another name: look after PATHS")
        found[path] = round(costs[phase][function] / REQUESTS)
    return found


class Client:
    """A tenant with one connection."""

    def __init__(self, address, key):
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.body = json.dumps({"key": "key:0000000000000001", "value": "x" * 100})

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"{method} {path} was answered {answer.status}: {text}")

    def get(self):
        self.ask("GET", f"{admin.BASE}/vs?key=key:0000000000000001")

    def set(self):
        self.ask("POST", f"{admin.BASE}/vs", self.body)


def control(what, pid):
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=120)


def inclusive(path):
    """Instructions by function, with those of what it calls. Of a function that calls itself, each call counts."""
    names, costs, function = {}, {}, None
    for line in path.read_text().splitlines():
        if match := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?$", line):
            is_called, number, name = match.groups()
            if name:
                names[number] = re.sub(r"'\d+$", "", name)
            if not is_called:
                function = number
        elif function and re.match(r"[+*\-\d]", line):
            cost = int(line.split()[1])
            costs[function] = costs.get(function, 0) + cost
    return {names[number]: cost for number, cost in costs.items() if number in names}


if __name__ == "__main__":
    main()
