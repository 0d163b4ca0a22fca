# `just` lists the verbs.
_default:
    @just --list

# The whole gate, as CI runs it: format, lints, docs, tests.
test:
    ./test.sh

# A node to try things on: data in ./insidb-data.
dev *ARGS:
    cargo run --release --bin insid -- dev {{ARGS}}

# What the dependency tree may hold.
deny:
    cargo deny check bans licenses sources

# Kill the server at random moments and check that nothing acknowledged is lost; N rounds.
crash N="1000":
    INSIDB_CRASH_ROUNDS={{N}} cargo nextest run --release -p insidb-server --test crash --no-capture

# The same with three nodes, killed one at a time and now and then two at once; N rounds.
crash-cluster N="100":
    INSIDB_CRASH_ROUNDS={{N}} cargo nextest run --release -p insidb-server --test crash_cluster --no-capture

# Real nodes, real clients, faults of every kind, and every check of what was answered: see docs/testing.md. For example
# `just blackbox --for 1h --seed 7 --dir /tmp/run`, and `just blackbox check /tmp/run`.
blackbox *ARGS:
    cargo build --release --bin insid --bin insidb-blackbox
    target/release/insidb-blackbox {{ARGS}}

# The measurements of docs/benchmarks.md (needs redis-server, redis-benchmark and wrk).
bench:
    cargo build --release --bin insid
    bench/run.py

# The measurements of three nodes (needs wrk): a killed leader, speeds beside a single node, a snapshot's cost.
bench-cluster:
    cargo build --release --bin insid
    bench/failover.py
    bench/cluster.py
