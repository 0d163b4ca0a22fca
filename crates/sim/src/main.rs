//! Runs simulations: one in this process, or many, each in a process of its own.

use std::{
    collections::BTreeMap,
    process::{Command, ExitCode},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use sim::{Options, Trace, run};

/// Runs seeds until one shows a fault.
#[derive(Clone, Parser)]
#[command(name = "insidb-sim", version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many run at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// How long clients and faults go on in each run, in milliseconds of simulated time.
    #[arg(long, default_value_t = 8_000)]
    duration_ms: u64,
    /// Nodes; drawn from the seed without it.
    #[arg(long)]
    nodes: Option<usize>,
    /// Goes on behind a seed that shows a fault.
    #[arg(long)]
    keep_going: bool,
    /// Prints every event, of a single seed.
    #[arg(long, conflicts_with = "seeds")]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.seeds == 1 { run_one(&arguments) } else { run_many(&arguments) }
}

/// What was counted, a line each: a number and a name.
#[expect(clippy::print_stdout, reason = "a program's output")]
fn print_counts(counts: &BTreeMap<String, u64>) {
    for (what, count) in counts {
        println!("{count:>12} {what}");
    }
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn run_one(arguments: &Arguments) -> ExitCode {
    let Arguments { seed, duration_ms, nodes, trace, .. } = *arguments;
    let trace = if trace { Trace::shown() } else { Trace::default() };
    match run(Options { seed, duration: Duration::from_millis(duration_ms), nodes, trace }) {
        Ok(report) => {
            let (events, hash) = report.digest;
            println!("seed {seed}: {} nodes, {events} events, which hash to {hash:016x}", report.nodes);
            let mut counts = report.operations;
            counts.extend(report.faults.into_iter().map(|(fault, count)| (format!("fault {fault}"), count)));
            counts.insert("simulated ms".to_owned(), report.simulated_ms);
            counts.insert("generations of the cache".to_owned(), report.generations);
            print_counts(&counts);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn run_many(arguments: &Arguments) -> ExitCode {
    let (next, stops) = (AtomicU64::new(arguments.seed), AtomicBool::new(false));
    let totals = Mutex::new((BTreeMap::<String, u64>::new(), 0_u64, Vec::new()));
    let until = arguments.seed.saturating_add(arguments.seeds);
    let work = || {
        while !stops.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= until {
                return;
            }
            let said = run_in_a_process(arguments, seed);
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            match said {
                Ok(counts) => {
                    totals.1 += 1;
                    for (what, count) in counts {
                        *totals.0.entry(what).or_default() += count;
                    }
                }
                Err(said) => {
                    println!("{said}");
                    totals.2.push(seed);
                    stops.fetch_or(!arguments.keep_going, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let (counts, passed, failed) = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{passed} seeds passed; failed: {failed:?}");
    print_counts(&counts);
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run counted, or what it said when something did not hold.
fn run_in_a_process(arguments: &Arguments, seed: u64) -> Result<BTreeMap<String, u64>, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut command = Command::new(own);
    command.args(["--seed", &seed.to_string(), "--duration-ms", &arguments.duration_ms.to_string()]);
    if let Some(nodes) = arguments.nodes {
        command.args(["--nodes", &nodes.to_string()]);
    }
    let output = command.output().map_err(|error| format!("seed {seed} cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complained = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}\n{}", said.trim_end(), complained.trim_end()).trim_end().to_owned());
    }
    let count = |line: &str| {
        let (count, what) = line.trim_start().split_once(' ')?;
        Some((what.to_owned(), count.parse().ok()?))
    };
    Ok(said.lines().skip(1).filter_map(count).collect())
}
