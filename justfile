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

# Kill it on a file system that loses what was not synced (needs the right to mount through FUSE); N rounds.
crash-unsynced N="100":
    INSIDB_LOSS_ROUNDS={{N}} cargo nextest run -p insidb-server --test crash --no-capture not_synced does_not_sync

# Damage the files of a stopped node, N random cases beside the systematic ones.
corruption N="500":
    INSIDB_CORRUPTION_CASES={{N}} cargo nextest run -p insidb-server --test corruption --no-capture

# Fuzz decoders, layout and messages, guided by coverage, so many seconds each (needs a C++ compiler).
fuzz SECONDS="600" *TARGETS:
    fuzz/run.sh {{SECONDS}} {{TARGETS}}

# Write the seeds of the fuzzing corpus anew.
fuzz-seeds:
    cargo test -p insidb-state -p insidb-consensus --lib fuzz::tests::write_seeds -- --ignored

# Whole clusters in one process, N runs from seed FROM on: see docs/testing.md.
sim FROM="1" N="1000":
    cargo run --release --bin insidb-sim -- --seed {{FROM}} --seeds {{N}}

# Put deliberate bugs in, one after another, and demand that each is found: all, or those with these words in their names.
mutations *NAMES:
    mutations/run.sh {{NAMES}}

# Real nodes, real clients, faults of every kind, and every check of what was answered: see docs/testing.md. For example
# `just blackbox --for 1h --seed 7 --dir /tmp/run`, and `just blackbox check /tmp/run`.
blackbox *ARGS:
    cargo build --release --bin insid --bin insidb-blackbox
    target/release/insidb-blackbox {{ARGS}}

# Five times what the nodes can serve, thousands of connections, slow and greedy clients: see docs/testing.md. For example
# `just overload --nodes 3 --seconds 5`.
overload *ARGS:
    cargo build --release --bin insid --bin insidb-overload
    target/release/insidb-overload {{ARGS}}

# InsiDB beside Redis, etcd and a bare handler, as far as they are there, and whatever else bench/README.md lists. For example
# `just bench`, `just bench --suite sizes,keys`, `just bench --suite table --rounds 2 --seconds 3`, `just bench --help`.
bench *ARGS:
    cargo build --release --bin insid --bin insic
    cargo build --release -p insidb-server --example bare
    bench/run.py {{ARGS}}
