//! What a run has found, as it is printed.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::Consistency;
use super::tally::{Interval, Served, Tally};
use super::workload::{Share, Store};
use crate::output::Output;

/// What was asked for.
#[derive(Serialize)]
pub(crate) struct Settings {
    pub(crate) store: Store,
    pub(crate) operations: Vec<Share>,
    pub(crate) keys: u64,
    /// Whether all keys are set first.
    pub(crate) fill: bool,
    pub(crate) value_bytes: usize,
    pub(crate) distribution: String,
    /// `None` where nothing iterates.
    pub(crate) page: Option<Page>,
    pub(crate) consistency: Consistency,
    pub(crate) api_keys: usize,
    pub(crate) nodes: Vec<String>,
    pub(crate) connections: u32,
    pub(crate) pipeline: u32,
    pub(crate) threads: u32,
    /// `None` for a closed loop.
    pub(crate) rate: Option<u64>,
    pub(crate) warmup_seconds: f64,
    /// `None` when it ends after so many requests.
    pub(crate) duration_seconds: Option<f64>,
    pub(crate) requests: Option<u64>,
    pub(crate) seed: u64,
}

/// What an iterate asks for.
#[derive(Serialize)]
pub(crate) struct Page {
    /// The most keys.
    pub(crate) limit: u64,
    /// How many keys to pass over.
    pub(crate) offset: u64,
}

/// What was found.
pub(crate) struct Findings {
    pub(crate) settings: Settings,
    pub(crate) tally: Tally,
    pub(crate) series: Vec<Second>,
    /// How long was measured, until the last answer.
    pub(crate) measured: Duration,
    /// The processor time that this program took meanwhile.
    pub(crate) client_cpu: Duration,
    pub(crate) is_interrupted: bool,
    /// Requests of an open loop that were due and not sent, and how long the oldest had waited.
    pub(crate) unsent: u64,
    pub(crate) unsent_for: Duration,
    /// What the reader should know before taking the figures for the service's.
    pub(crate) notes: Vec<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    settings: &'a Settings,
    interrupted: bool,
    seconds: f64,
    /// Requests served a second.
    rate: f64,
    requests: Requests,
    /// `None` when nothing was served.
    latency_us: Option<Latency>,
    operations: Vec<Operation>,
    errors: Vec<ErrorCount>,
    bytes_sent: u64,
    bytes_received: u64,
    connections: Connections<'a>,
    client_cpu_us_per_request: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<&'a [Second]>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Requests {
    sent: u64,
    served: u64,
    /// Those of the served that met no such key, or a condition that does not hold.
    negative: u64,
    /// 429 and 503.
    refused: u64,
    /// Every other answer.
    failed: u64,
    unanswered: u64,
    unsent: u64,
}

#[derive(Serialize)]
struct Connections<'a> {
    opened: u64,
    broken: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Operation {
    operation: &'static str,
    served: u64,
    negative: u64,
    rate: f64,
    /// `None` when nothing was served.
    latency_us: Option<Latency>,
}

#[derive(Serialize)]
struct ErrorCount {
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    code: &'static str,
    count: u64,
}

/// In microseconds.
#[derive(Clone, Serialize)]
struct Latency {
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Latency {
    /// `None` when nothing was recorded.
    fn of(latency: &Histogram<u64>) -> Option<Self> {
        (!latency.is_empty()).then(|| Self {
            min: latency.min(),
            mean: tenths(latency.mean()),
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p99_9: latency.value_at_quantile(0.999),
            max: latency.max(),
        })
    }
}

/// One row of the series: about a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Second {
    /// When it ends, from the beginning of what is measured on.
    seconds: f64,
    served: u64,
    refused: u64,
    /// Latencies are `None` when nothing was served.
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
}

impl Second {
    /// What was answered in the time that ends `since` after the beginning.
    pub(crate) fn new(since: Duration, Interval { refused, latency }: &Interval) -> Self {
        let all = Latency::of(latency);
        Self {
            seconds: (since.as_secs_f64() * 1_000.0).round() / 1_000.0,
            served: latency.len(),
            refused: *refused,
            p50_us: all.as_ref().map(|all| all.p50),
            p99_us: all.as_ref().map(|all| all.p99),
            max_us: all.as_ref().map(|all| all.max),
        }
    }

    /// Whether nothing was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.served == 0 && self.refused == 0
    }
}

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, refused, p50_us, p99_us, .. } = self;
        write!(f, "{served}/s, p50 {} ms, p99 {} ms", millis(*p50_us), millis(*p99_us))?;
        if *refused > 0 { write!(f, ", {refused} not served") } else { Ok(()) }
    }
}

impl Findings {
    /// Prints them. The series is printed if `is_series`.
    pub(crate) fn print(&self, is_series: bool, out: &mut Output) -> std::io::Result<()> {
        let report = self.report(is_series);
        if out.json { out.json(&report) } else { print(&report, out) }
    }

    fn report(&self, is_series: bool) -> Report<'_> {
        let Self { settings, tally, measured, .. } = self;
        let seconds = measured.as_secs_f64();
        let all = tally.all();
        let refused = |status: u16| matches!(status, 429 | 503);
        let count = |is: &dyn Fn(u16) -> bool| -> u64 {
            tally.refusals.iter().filter(|((status, _), _)| is(*status)).map(|(_, refusals)| refusals.count).sum()
        };
        Report {
            settings,
            interrupted: self.is_interrupted,
            seconds: (seconds * 1_000.0).round() / 1_000.0,
            rate: rate(all.latency.len(), seconds),
            requests: Requests {
                sent: tally.sent,
                served: all.latency.len(),
                negative: all.negative,
                refused: count(&refused),
                failed: count(&|status| !refused(status)),
                unanswered: tally.unanswered(),
                unsent: self.unsent,
            },
            latency_us: Latency::of(&all.latency),
            operations: tally
                .operations()
                .map(|(operation, Served { negative, latency })| Operation {
                    operation: operation.name(),
                    served: latency.len(),
                    negative: *negative,
                    rate: rate(latency.len(), seconds),
                    latency_us: Latency::of(latency),
                })
                .collect(),
            errors: tally
                .refusals
                .iter()
                .map(|((status, code), refusals)| ErrorCount { status: *status, code, count: refusals.count })
                .collect(),
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            connections: Connections {
                opened: tally.connections.opened,
                broken: tally.connections.broken,
                last_reason: tally.connections.last_reason.as_deref(),
            },
            client_cpu_us_per_request: match tally.sent {
                0 => 0.0,
                sent => tenths(self.client_cpu.as_secs_f64() * 1e6 / sent as f64),
            },
            series: is_series.then_some(&self.series),
            notes: &self.notes,
        }
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { tenths(count as f64 / seconds) } else { 0.0 }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn print(report: &Report<'_>, out: &mut Output) -> std::io::Result<()> {
    let header = ["", "SERVED", "RATE/S", "MEAN ms", "P50 ms", "P90 ms", "P99 ms", "P99.9 ms", "MAX ms"];
    let mut rows: Vec<_> =
        report.operations.iter().map(|of| row(of.operation, of.served, of.rate, of.latency_us.as_ref())).collect();
    if rows.len() != 1 {
        rows.push(row("all", report.requests.served, report.rate, report.latency_us.as_ref()));
    }
    out.table(header, rows)?;
    if !report.errors.is_empty() {
        out.line("")?;
        let row = |of: &ErrorCount| [of.status.to_string(), of.code.to_owned(), of.count.to_string()];
        out.table(["STATUS", "ERROR", "COUNT"], report.errors.iter().map(row).collect())?;
    }
    if let Some(series) = report.series {
        out.line("")?;
        let rows = series.iter().map(|second| {
            let Second { seconds, served, refused, p50_us, p99_us, max_us } = second;
            let (served, refused) = (served.to_string(), refused.to_string());
            [format!("{seconds:.1}"), served, refused, millis(*p50_us), millis(*p99_us), millis(*max_us)]
        });
        out.table(["SECOND", "SERVED", "NOT SERVED", "P50 ms", "P99 ms", "MAX ms"], rows.collect())?;
    }
    out.line("")?;
    out.line(&loop_line(report))?;
    out.line(&request_line(report))?;
    for note in report.notes {
        out.remark(&format!("note: {note}"))?;
    }
    Ok(())
}

fn row(name: &str, served: u64, rate: f64, latency: Option<&Latency>) -> [String; 9] {
    let micros = |of: fn(&Latency) -> u64| millis(latency.map(of));
    [
        name.to_owned(),
        served.to_string(),
        format!("{rate:.0}"),
        latency.map_or_else(nothing, |latency| format!("{:.3}", latency.mean / 1_000.0)),
        micros(|latency| latency.p50),
        micros(|latency| latency.p90),
        micros(|latency| latency.p99),
        micros(|latency| latency.p99_9),
        micros(|latency| latency.max),
    ]
}

/// What stands for a latency where nothing was served.
fn nothing() -> String {
    "-".to_owned()
}

fn millis(micros: Option<u64>) -> String {
    micros.map_or_else(nothing, |micros| format!("{}.{:03}", micros / 1_000, micros % 1_000))
}

fn loop_line(report: &Report<'_>) -> String {
    let Settings { connections, pipeline, rate, keys, distribution, value_bytes, page, .. } = report.settings;
    let kind = match rate {
        Some(rate) => format!("open loop at {rate} requests/s, latency from when each was due"),
        None => "closed loop".to_owned(),
    };
    let s = if *connections == 1 { "" } else { "s" };
    let pipeline = if *pipeline == 1 { String::new() } else { format!(" with {pipeline} requests under way on each") };
    let page = match page {
        Some(Page { limit, offset: 0 }) => format!("; pages of {limit} keys"),
        Some(Page { limit, offset }) => format!("; pages of {limit} keys at offset {offset}"),
        None => String::new(),
    };
    format!(
        "{:.1} s; {kind}; {connections} connection{s}{pipeline}; {keys} keys, {distribution}; values of {value_bytes} bytes{page}",
        report.seconds
    )
}

fn request_line(report: &Report<'_>) -> String {
    let Requests { sent, negative, unanswered, unsent, .. } = report.requests;
    let mut line =
        format!("{sent} requests sent, {} bytes; {} bytes received", report.bytes_sent, report.bytes_received);
    for (count, what) in [
        (negative, "met no such key or a condition that does not hold"),
        (unanswered, "got no answer"),
        (unsent, "were due and not sent"),
        (report.connections.broken, "connections broke"),
    ] {
        if count > 0 {
            line = format!("{line}; {count} {what}");
        }
    }
    let cpu = report.client_cpu_us_per_request;
    format!("{line}; the client took {cpu:.1} us of processor time for each")
}
