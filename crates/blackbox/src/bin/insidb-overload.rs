//! `insidb-overload`: asks real nodes for far more than they can serve, and says what became of it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells what it does")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use insidb_blackbox::overload::{self, Bounds, Options};

/// Asks real nodes for far more than they can serve, with thousands of connections and clients that are a nuisance.
///
/// Exit code: 0 all bounds hold, 1 one does not, 2 it could not be run.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The server
    #[arg(long, value_name = "PATH", default_value = "target/release/insid")]
    insid: PathBuf,
    /// Where the nodes keep their data; must not exist or be empty
    #[arg(long, value_name = "DIR", default_value = "overload")]
    dir: PathBuf,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// How many connections there are at once, of all kinds
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    connections: usize,
    /// How many times as much is asked for as can be served
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    factor: f64,
    /// How long each part of a round takes
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Rounds of load
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Rounds of each kind with two tenants, for sets and for gets
    #[arg(long, value_name = "N", default_value_t = 7)]
    neighbour_rounds: usize,
}

/// What must hold on a machine that has nothing else to do.
const BOUNDS: Bounds = Bounds {
    accepted_p99_max: Duration::from_secs(2),
    refused_p99_max: Duration::from_secs(1),
    probe_max: Duration::from_secs(1),
    speed_min: 0.8,
    neighbour_factor_max: 1.2,
    neighbour_slack: Duration::ZERO,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = overload::run(&Options {
        insid: arguments.insid,
        dir: arguments.dir,
        nodes: arguments.nodes.max(1),
        connections: arguments.connections.max(1),
        factor: arguments.factor,
        time: Duration::from_secs(arguments.seconds.max(1)),
        rounds: arguments.rounds,
        neighbour_rounds: arguments.neighbour_rounds,
        bounds: BOUNDS,
    });
    match report {
        Ok(report) => {
            println!("{report}");
            if report.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("insidb-overload: {error:#}");
            ExitCode::from(2)
        }
    }
}
