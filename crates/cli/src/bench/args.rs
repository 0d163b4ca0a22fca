//! What may be typed behind `insic bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::keys::{self, Distribution, KEYS_MAX};
use super::request::Shape;
use super::schedule::End;
use super::workload::{self, Operation, Share, Store};
use crate::failure::Failure;
use crate::size;

const ABOUT: &str = "\
Load the service with requests, and show how fast it answers

It writes into the data of the API key in use: keys `bench/` and 14 digits (for bump, `bench:` and 14 digits), 20 bytes
each. They stay there. The rate limit of the key applies; root has none.

Without --rate it is a closed loop: each connection sends its next request when an answer has come. With --rate it is an
open loop: each request is due at its time, and its latency counts from then, also when it had to wait for those before.
Only that shows what users would see of a service that stalls.

Refusals (429, 503) and other failures are counted by their codes, and are in no latency. An absent key, and a condition
that does not hold, are answers like any other. Ctrl-C ends the run and shows what was found so far.";

const EXAMPLES: &str = "\
Examples:
  insic bench --reads 95                              95 % gets, 5 % sets
  insic bench --op set --connections 1                how long one durable write takes
  insic bench --rate 5000 --duration 1m --series      latencies at 5,000 requests a second, each second
  insic bench --op get:80,set:15,iterate:5 --distribution zipf
  insic bench --store cache --op cas --json";

/// How reads are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Consistency {
    /// By what every acknowledged write before has left
    Linearizable,
    /// At once by what the node has, even if it is behind the leader
    Stale,
}

#[derive(Args)]
#[command(about = "Load the service with requests, and show how fast it answers", long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct Command {
    /// The store to ask
    #[arg(long, value_enum, default_value_t = Store::Values)]
    pub(super) store: Store,

    /// What to ask: get, set, setnx, cas, delete, bump, iterate; several with weights, as get:80,set:20 [default: get]
    #[arg(long, value_name = "OP[:WEIGHT]", value_delimiter = ',', value_parser = workload::parse_share)]
    pub(super) op: Vec<Share>,

    /// Ask so many per cent gets, and sets for the rest
    #[arg(long, value_name = "PERCENT", conflicts_with = "op", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) reads: Option<u32>,

    /// How many different keys to use, in the data of each API key
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(super) keys: u64,

    /// How long each value is, in bytes, or as 10KiB
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = value_size)]
    pub(super) value_size: usize,

    /// How keys are chosen: uniform, or zipf, or zipf:THETA (0.99 unless given), where few keys get most requests
    #[arg(long, value_name = "NAME", default_value = "uniform", value_parser = keys::parse_distribution)]
    pub(super) distribution: Distribution,

    /// Connections, spread over the URLs
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) connections: u32,

    /// Requests under way on one connection (HTTP/1.1 pipelining)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) pipeline: u32,

    /// Threads that make the load; the server may need the processors more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) threads: u32,

    /// An open loop: so many requests a second in total, each due at its time
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) rate: Option<u64>,

    /// How long to measure, as 500ms, 10s, 2m, 1h [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "requests")]
    pub(super) duration: Option<Duration>,

    /// Measure so many requests instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(super) requests: Option<u64>,

    /// How long to send requests before they are measured
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub(super) warmup: Duration,

    /// Set all keys first; get, cas and iterate do so by themselves
    #[arg(long)]
    pub(super) fill: bool,

    /// Set no keys first, and take those that are there
    #[arg(long, conflicts_with = "fill")]
    pub(super) no_fill: bool,

    /// What the random choices of operations and keys begin with; the same seed makes the same choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,

    /// How gets and iterates are answered
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub(super) consistency: Consistency,

    /// iterate: the most keys of one page
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) limit: u64,

    /// iterate: how many keys to pass over before a page
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) offset: u64,

    /// Spread the requests over the API keys in this file, one a line, in place of --key
    #[arg(long, value_name = "FILE")]
    pub(super) api_keys_file: Option<PathBuf>,

    /// Show latencies for each second, too
    #[arg(long)]
    pub(super) series: bool,

    /// Write the percentile distribution of all latencies to this file, in milliseconds, as HdrHistogram's plotter takes it
    #[arg(long, value_name = "FILE")]
    pub(super) hdr: Option<PathBuf>,
}

impl Command {
    /// The operations and their weights.
    ///
    /// # Errors
    /// When a store does not have one of them.
    pub(super) fn shares(&self) -> Result<Vec<Share>, Failure> {
        let shares = match (self.reads, self.op.as_slice()) {
            (Some(reads), _) => {
                let share = |operation, weight| Share { operation, weight };
                [share(Operation::Get, reads), share(Operation::Set, 100 - reads)].to_vec()
            }
            (None, []) => vec![Share { operation: Operation::Get, weight: 1 }],
            (None, given) => given.to_vec(),
        };
        let shares: Vec<_> = shares.into_iter().filter(|share| share.weight > 0).collect();
        if self.store == Store::Cache && shares.iter().any(|share| share.operation == Operation::Bump) {
            return Err(Failure::usage("the Cache has no bump", "leave out `bump`, or use --store values"));
        }
        Ok(shares)
    }

    /// Whether to set all keys before.
    pub(super) fn is_filled(&self, shares: &[Share]) -> bool {
        self.fill || (!self.no_fill && shares.iter().any(|share| share.operation.needs_keys()))
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            store: self.store,
            value_bytes: self.value_size,
            is_stale: self.consistency == Consistency::Stale,
            limit: self.limit,
            offset: self.offset,
        }
    }

    /// How long to measure, unless it ends after so many requests.
    pub(super) fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(10))
    }

    /// When a thread ends. The requests are shared out, the first threads taking what is over.
    pub(super) fn end(&self, thread: u64, threads: u64) -> End {
        match self.requests {
            Some(requests) => End::Requests(requests / threads + u64::from(thread < requests % threads)),
            None => End::After(self.duration()),
        }
    }
}

fn value_size(text: &str) -> Result<usize, String> {
    // The most that a server can be configured to take.
    const BYTES_MAX: i64 = 16 << 20;
    match size::parse(text)? {
        bytes @ 0..=BYTES_MAX => Ok(usize::try_from(bytes).expect("at most 16 MiB")),
        _ => Err("a value has at most 16MiB".to_owned()),
    }
}

/// Reads `500ms`, `10s`, `2m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "a whole number with its unit is expected, as 10s; the units are ms, s, m, h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit_millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let millis = count.parse::<u64>().map_err(|_| expected())?.checked_mul(unit_millis);
    // A year: a sum of such times never overflows.
    millis
        .filter(|millis| *millis <= 31_536_000_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "that is over a year".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis));
        }
        for refused in ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "9000h", "99999999999999999999s"] {
            assert!(duration(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn value_sizes_are_bounded() {
        assert_eq!(value_size("0").unwrap(), 0);
        assert_eq!(value_size("16MiB").unwrap(), 16 << 20);
        assert!(value_size("16777217").is_err());
    }
}
