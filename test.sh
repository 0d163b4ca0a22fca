#!/usr/bin/env bash
# The whole gate: what a change must pass, here and in CI. Needs cargo and a C compiler.
set -euo pipefail
cd "$(dirname "$0")"

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
# One test a process and a time limit for each where nextest is there; plain cargo otherwise.
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked
else
    cargo test --workspace --locked
fi
cargo test --workspace --doc --locked
# How many instructions the hot paths take: counts, where seconds would say little.
if command -v valgrind >/dev/null && command -v python3 >/dev/null; then
    cargo build --bin insid --locked
    bench/instructions.py --insid "${CARGO_TARGET_DIR:-target}/debug/insid"
else
    echo "NOT COUNTED: the instructions of the hot paths (bench/instructions.py needs valgrind and python3)" >&2
fi
