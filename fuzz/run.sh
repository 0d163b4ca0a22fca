#!/usr/bin/env bash
# Fuzzes one target, or all of them one after another, for so many seconds each: fuzz/run.sh SECONDS [TARGET...]
# What cargo-fuzz does with `--sanitizer none`, on the stable compiler: code that counts which of its edges were taken,
# and libFuzzer, which mutates what takes new ones. `cargo +nightly fuzz run TARGET` does it with a sanitizer.
# What is found on the way lies in fuzz/found/TARGET, and what breaks a promise in fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("${@:-command layout snapshot log_record message}")
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="--cfg fuzzing $coverage -Ccodegen-units=1" cargo build --release --bins --target "$host"
for target in ${targets[@]}; do
    mkdir -p "found/$target" "artifacts/$target"
    "target/$host/release/$target" "found/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1
done
