//! Seeds that every change must pass, and that a seed is a run.

#![allow(clippy::unwrap_used)]

use std::process::Command;

/// Runs the simulator; what it says when all holds.
fn sim(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_insidb-sim")).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The number of a line of what it says.
fn count(said: &str, what: &str) -> u64 {
    let line = said.lines().find_map(|line| line.trim_start().strip_suffix(what));
    line.unwrap_or_else(|| panic!("{what} is not in {said}")).trim().parse().unwrap()
}

#[test]
fn a_seed_is_a_run() {
    let of = |seed: &str| sim(&["--seed", seed, "--duration-ms", "3000", "--trace"]);
    let (first, other) = (of("3"), of("4"));
    assert!(first.lines().count() > 1_000, "hardly anything happens");
    assert_ne!(first, other);
    // Event by event.
    assert!(first == of("3"), "the same seed made another run");
}

#[test]
fn seeds_from_1000() {
    let said = sim(&["--seed", "1000", "--seeds", "24", "--duration-ms", "4000"]);
    assert!(count(&said, " answered") > 2_000, "{said}");
    let faults: u64 =
        said.lines().filter_map(|line| line.trim_start().split_once(" fault ")?.0.parse::<u64>().ok()).sum();
    assert!(faults > 60, "{said}");
}

#[test]
fn seeds_from_2000() {
    sim(&["--seed", "2000", "--seeds", "24", "--duration-ms", "4000"]);
}
