//! A minute of the black box: real nodes under faults of every kind that can be made here, real clients, and every check of
//! what they were answered. `just blackbox` runs it for longer.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeSet, time::Duration};

use insidb_blackbox::{FaultKind, Options};

#[test]
fn a_minute_of_faults_leaves_nothing_that_nothing_explains() {
    let home = tempfile::tempdir().unwrap();
    let report = insidb_blackbox::run(&Options {
        insid: env!("CARGO_BIN_EXE_insid").into(),
        dir: home.path().join("run"),
        duration: Duration::from_secs(60),
        seed: 4,
        faults: BTreeSet::from(FaultKind::ALL),
        rate_per_second: 200,
    })
    .unwrap();
    println!("{report}");
    for kind in FaultKind::ALL {
        if let Some(why) = report.skipped(kind) {
            println!("SKIPPED: {kind} was not tried: {why}");
        }
    }
    if !report.violations.is_empty() {
        panic!("see {}, which stays: {report}", home.keep().display());
    }
    // Kills and pauses can be made everywhere, and most kinds come in a minute.
    let healed = FaultKind::ALL.into_iter().filter(|kind| report.healed(*kind) > 0).count();
    let possible = FaultKind::ALL.into_iter().filter(|kind| report.skipped(*kind).is_none()).count();
    assert!(healed + 3 >= possible && healed >= 3, "{report}");
    let [answered, ..] = report.outcomes();
    assert!(answered > 1_000, "{report}");
}
