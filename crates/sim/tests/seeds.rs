//! Seeds that every change must pass, and that a seed is a run.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sim::{Options, Report, Trace, run};

fn options(seed: u64) -> Options {
    Options { seed, duration: Duration::from_secs(4), nodes: None, trace: Trace::default() }
}

fn passes(seeds: std::ops::Range<u64>) -> Vec<Report> {
    seeds.map(|seed| run(options(seed)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"))).collect()
}

#[test]
fn a_seed_gives_the_same_run_whatever_ran_before() {
    let first = run(options(3)).unwrap();
    let other = run(options(4)).unwrap();
    assert_ne!(first.digest, other.digest);
    assert_eq!(run(options(3)).unwrap(), first);
    assert!(first.digest.0 > 1_000, "{first:?}");
}

#[test]
fn seeds_from_1000() {
    let reports = passes(1_000..1_020);
    let answered: u64 = reports.iter().filter_map(|report| report.operations.get("answered")).sum();
    let faults: u64 = reports.iter().flat_map(|report| report.faults.values()).sum();
    assert!(answered > 2_000 && faults > 60, "{answered} operations were answered beside {faults} faults");
}

#[test]
fn seeds_from_2000() {
    passes(2_000..2_020);
}
