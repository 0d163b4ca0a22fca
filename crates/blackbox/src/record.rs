//! What is written down: one operation a line in `history.jsonl`, and everything else in `events.jsonl`.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Context as _;
use insidb_oracle::{Operation, Outcome, Store};
use serde::{Deserialize, Serialize};

use crate::schedule::FaultKind;

pub(crate) const HISTORY_FILE: &str = "history.jsonl";
pub(crate) const EVENTS_FILE: &str = "events.jsonl";

/// An operation, and whom it was asked. The oracle reads the operation alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) operation: Operation,
    /// The node that was asked.
    pub(crate) node: usize,
    /// The client that asked.
    pub(crate) client: usize,
    /// Why it is refused or unknown: the server's code, or what broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// What a fault may do to the Cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheFate {
    /// It must be there afterwards, under the same generation.
    Kept,
    /// It must be empty, under a later one.
    Lost,
    /// Either of the two.
    Either,
}

/// Bytes in both stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) disk: u64,
    pub(crate) memory: u64,
}

/// What happened, but for the operations. Times are those of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A run begins.
    Began { seed: u64, seconds: u64, rate_per_second: u32, insid: String },
    /// A kind of fault cannot be made on this machine.
    Skipped { kind: FaultKind, why: String },
    /// A fault begins.
    Fault { at_ns: u64, kind: FaultKind, what: String },
    /// The cluster is whole again after a fault.
    Healed { at_ns: u64, kind: FaultKind, after_ms: u64, cache: CacheFate, generation_before: u64, generation: u64 },
    /// A tenant was deleted, and that was acknowledged.
    Deleted { tenant: String, called_ns: u64, returned_ns: u64 },
    /// A tenant's quotas were set; no return: the outcome is unknown.
    Quotas { tenant: String, called_ns: u64, returned_ns: Option<u64>, quotas: Bytes },
    /// A tenant's usage, as its `/limits` tells.
    Usage { tenant: String, node: usize, called_ns: u64, returned_ns: u64, usage: Bytes },
    /// The faults are over, and the last operations have ended; what follows is read of a cluster at rest.
    Closing { at_ns: u64 },
    /// All keys of a tenant, as a node lists them.
    Listed { tenant: String, store: Store, node: usize, keys: Vec<String> },
    /// A tenant's usage in the end.
    ClosingUsage { tenant: String, node: usize, usage: Bytes },
    /// How a node answers the key of a tenant that was deleted.
    DeletedAnswers { tenant: String, node: usize, code: String },
    /// All that a node stores, of all tenants.
    Stored { node: usize, stored: Bytes },
    /// A node's state.
    State { node: usize, group: String, applied_index: Option<u64>, hash: Option<String> },
    /// What was seen to be wrong as it happened.
    Wrong { at_ns: u64, what: String },
    /// The run came to its end.
    Ended { at_ns: u64 },
}

/// Writes down what happens, and counts.
pub(crate) struct Recorder {
    begun: Instant,
    history: Mutex<BufWriter<File>>,
    events: Mutex<BufWriter<File>>,
    /// For each node, the answered writes to the Value Store.
    writes: Vec<AtomicU64>,
}

impl Recorder {
    pub(crate) fn create(dir: &Path, nodes: usize) -> anyhow::Result<Self> {
        let create = |name: &str| {
            let path = dir.join(name);
            File::create_new(&path).map(BufWriter::new).with_context(|| format!("cannot make {}", path.display()))
        };
        Ok(Self {
            begun: Instant::now(),
            history: Mutex::new(create(HISTORY_FILE)?),
            events: Mutex::new(create(EVENTS_FILE)?),
            writes: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes a line down. A record that cannot be kept proves nothing: that ends the run.
    pub(crate) fn operation(&self, line: &Line) -> anyhow::Result<()> {
        let Operation { store, request, outcome, .. } = &line.operation;
        if *store == Store::Values && !request.is_read() && matches!(outcome, Outcome::Known { .. }) {
            self.writes[line.node].fetch_add(1, Ordering::Relaxed);
        }
        write_line(&self.history, line)
    }

    pub(crate) fn event(&self, event: &Event) -> anyhow::Result<()> {
        write_line(&self.events, event)?;
        // Events are few, and what led to an end is what one looks for.
        Ok(self.events.lock().unwrap_or_else(PoisonError::into_inner).flush()?)
    }

    pub(crate) fn wrong(&self, what: impl Into<String>) -> anyhow::Result<()> {
        self.event(&Event::Wrong { at_ns: self.now_ns(), what: what.into() })
    }

    /// Answered writes to the Value Store through these nodes.
    pub(crate) fn writes_through(&self, nodes: impl Iterator<Item = usize>) -> u64 {
        nodes.map(|node| self.writes[node].load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
        Ok(self.events.lock().unwrap_or_else(PoisonError::into_inner).flush()?)
    }
}

fn write_line(to: &Mutex<BufWriter<File>>, line: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(line).context("cannot write a record")?;
    text.push(b'\n');
    to.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text).context("cannot write a record")
}

/// Reads lines of JSON.
pub(crate) fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |(n, text): (usize, std::io::Result<String>)| {
        let place = || format!("{}, line {}", path.display(), n + 1);
        serde_json::from_str(&text.with_context(place)?).with_context(place)
    };
    BufReader::new(file).lines().enumerate().map(line).collect()
}
