#!/usr/bin/env python3
"""Where the CPU time of one operation goes: one node under wrk, looked at by perf.

    bench/profile.py get            # or: set, "cache get", "cache set"

Told is what is spent in a function and in all that it calls, in microseconds of one operation, for each kind of thread: the
share of the samples, of the CPU time that the node's process took for each operation meanwhile. It needs `perf` (Debian's
linux-perf) and the right to use it. In a release functions are merged across crates, and only the threads can be told apart:
for the layers give it a build of the profile quick, as `INSIDB_BENCH_BIN_DIR=target/quick`.
"""

import argparse, pathlib, re, subprocess, tempfile, threading

import load, operations, peers
from deadline import Deadline
from fill import fill
from processes import output, program

# Layers by the functions that are their doors, outermost first; the threads are those whose names begin so.
LAYERS = {
    "insid-http": ["hyper::proto::h1::dispatch::Dispatcher", "<&mio::net::tcp::stream::TcpStream as std::io::Read>::read",
                   "<&mio::net::tcp::stream::TcpStream as std::io::Write>::write_vectored", "hyper::proto::h1::role::Server as",
                   "server::listen::Connection::answer", "server::http::layers::operate", "server::http::caller::Callers::authenticate",
                   "state::query::Reader<V>::get", "server::http::kv::data", "server::http::kv::write",
                   "server::listen::stream::Timer::poll", "mio::poll::Poll::poll", "scheduler::multi_thread::worker::Context::park_internal"],
    "insid-values": ["consensus::submit::Batcher<E>::run", "openraft::core::raft_core::RaftCore", "consensus::state_machine::Machine<E>::apply_chunk",
                     "state::apply::Applying<E>::apply", "scheduler::multi_thread::worker::Context::park_internal"],
    "insid-cache": ["consensus::submit::Batcher<E>::run", "openraft::core::raft_core::RaftCore", "consensus::state_machine::Machine<E>::apply_chunk",
                    "state::apply::Applying<E>::apply", "scheduler::multi_thread::worker::Context::park_internal"],
    "log-sync": ["consensus::log::disk::writer::Writer::write", "<std::fs::File>::sync_data"],
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("operation")
    arguments.add_argument("--connections", type=int, default=64)
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--keys", type=int, default=10_000)
    arguments = arguments.parse_args()
    operation = operations.named(arguments.operation)
    if not program("perf"):
        raise SystemExit("perf is not there: install linux-perf")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        with peers.One("insid", scratch) as node:
            deadline = Deadline(600)
            fill(node, operation.store, arguments.keys, 100, scratch, deadline)
            samples = scratch / "samples"
            perf = ["perf", "record", "-F", "499", "--call-graph", "dwarf,16384", "-p", str(node.processes[0].child.pid), "-o", samples,
                    "--", "sleep", str(max(1, arguments.seconds - 2))]
            looking = threading.Timer(1, subprocess.run, [perf], {"capture_output": True})
            looking.start()
            client = load.Client(scratch, deadline)
            found = client.run(node, operation, arguments.keys, 100, arguments.connections, arguments.seconds)
            looking.join()
        if not samples.exists():
            raise SystemExit("perf has recorded nothing: /proc/sys/kernel/perf_event_paranoid may not allow it")
        report = output(["perf", "report", "-i", samples, "--children", "-g", "none", "--percent-limit", "0.3", "--sort", "comm,sym",
                         "--stdio"], 600)
        threads = output(["perf", "report", "-i", samples, "--no-children", "-g", "none", "--sort", "comm", "--stdio"], 600)
    print(f"{arguments.operation}, {arguments.connections} connections: {found['rate']:,.0f}/s under perf, {found['cpu_us']:.1f} us of CPU each")
    rows = re.findall(r"^ *([\d.]+)% +[\d.]+% +(\S+) +\[.\] (.*)$", report, re.MULTILINE)
    for share, thread in re.findall(r"^ *([\d.]+)% +(\S+)", threads, re.MULTILINE):
        if float(share) < 0.5:
            continue
        print(f"{float(share) / 100 * found['cpu_us']:6.2f} us  {thread}")
        for layer in LAYERS.get(thread, []):
            costs = [float(cost) for cost, of, symbol in rows if of == thread and layer in symbol and "(inlined)" not in symbol]
            if costs:
                print(f"  {max(costs) / 100 * found['cpu_us']:6.2f}   {layer}")


if __name__ == "__main__":
    main()
