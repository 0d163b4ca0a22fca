//! Runs simulations.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use clap::Parser;
use sim::{Options, Trace, run};

/// Runs seeds, one after another, until one shows a fault.
#[derive(Parser)]
#[command(name = "insidb-sim", version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long clients and faults go on in each run, in milliseconds of simulated time.
    #[arg(long, default_value_t = 8_000)]
    duration_ms: u64,
    /// Nodes; drawn from the seed without it.
    #[arg(long)]
    nodes: Option<usize>,
    /// Goes on behind a seed that shows a fault.
    #[arg(long)]
    keep_going: bool,
    /// Prints every event.
    #[arg(long)]
    trace: bool,
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn main() -> ExitCode {
    let Arguments { seed, seeds, duration_ms, nodes, keep_going, trace } = Arguments::parse();
    let (mut passed, mut failed) = (0_u64, Vec::new());
    let mut totals = BTreeMap::<String, u64>::new();
    for seed in seed..seed + seeds {
        let trace = if trace { Trace::shown() } else { Trace::default() };
        let duration = Duration::from_millis(duration_ms);
        match run(Options { seed, duration, nodes, trace }) {
            Ok(report) => {
                passed += 1;
                *totals.entry("simulated ms".to_owned()).or_default() += report.simulated_ms;
                for (what, count) in report.operations.iter().chain(&report.faults) {
                    *totals.entry(what.clone()).or_default() += count;
                }
                if seeds <= 10 {
                    println!("seed {seed}: {report:?}");
                }
            }
            Err(violation) => {
                println!("seed {seed}: {violation}");
                failed.push(seed);
                if !keep_going {
                    break;
                }
            }
        }
    }
    println!("{passed} seeds passed; failed: {failed:?}");
    for (what, count) in totals {
        println!("{count:>12} {what}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
