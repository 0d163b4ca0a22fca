//! `insidb-blackbox`: runs a cluster of real nodes under faults, or checks again what such a run has recorded.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells what it does")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use insidb_blackbox::{FaultKind, Options, Report};

/// Real nodes, real clients, real faults: records every operation, and checks what clients were answered.
///
/// Exit code: 0 all is well, 1 something is wrong, 2 it could not be run.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Check again what a run has recorded
    Check {
        /// The directory of the run
        dir: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// The server
    #[arg(long, value_name = "PATH", default_value = "target/release/insid")]
    insid: PathBuf,
    /// How long faults are made: a number and s, m or h
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Decides which faults are made, in which order; not when exactly, nor what comes of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where nodes keep their data, and everything is recorded; must not exist or be empty
    #[arg(long, value_name = "DIR", default_value = "blackbox")]
    dir: PathBuf,
    /// Which faults are made
    #[arg(long, value_name = "KINDS", value_enum, value_delimiter = ',', default_values_t = FaultKind::ALL)]
    faults: Vec<FaultKind>,
    /// How many operations all clients together begin in a second
    #[arg(long, value_name = "N", default_value_t = 300)]
    rate: u32,
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "it begins with no number".to_owned())?;
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("its unit is none of s, m and h".to_owned()),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

fn main() -> ExitCode {
    let Arguments { command, run } = Arguments::parse();
    let report = match command {
        Some(Command::Check { dir }) => insidb_blackbox::check(&dir),
        None => insidb_blackbox::run(&Options {
            insid: run.insid,
            dir: run.dir,
            duration: run.duration,
            seed: run.seed,
            faults: run.faults.into_iter().collect(),
            rate_per_second: run.rate.max(1),
        }),
    };
    match report {
        Ok(report) => tell(&report),
        Err(error) => {
            eprintln!("insidb-blackbox: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn tell(report: &Report) -> ExitCode {
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
