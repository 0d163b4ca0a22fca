//! What the tests of the logs share.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

pub mod session;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use consensus::{
    env,
    log::disk::{self, DiskLog, Identity, Setup},
    types::{Entry, LogId, MemberId, Proposal, TypeConfig, Vote},
};
use openraft::{
    EntryPayload,
    storage::{IOFlushed, RaftLogStorage},
    type_config::TypeConfigExt,
    vote::leader_id_std::CommittedLeaderId,
};
use state::{
    command::{Batch, Command, Condition, Data, Write},
    ids::{ApiKeyId, ScopeId},
    kv::{Key, Value},
};
use storage::fs::{Disk, faulty::FaultyDisk};

/// Answers when an append is durable.
pub type Synced = openraft::alias::OneshotReceiverOf<TypeConfig, std::io::Result<()>>;

pub const SEGMENT_BYTES: u64 = disk::SEGMENT_BYTES_MIN;

#[derive(Debug, Default)]
pub struct Counter(pub AtomicUsize);

impl disk::Observer for Counter {
    fn synced(&self, _: Duration, _: usize, _: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The real world, but in it no time-out ever passes: a log is never idle.
#[derive(Debug, Default)]
pub struct Patient(env::System);

impl env::Env for Patient {
    fn spawn(&self, name: &str, body: env::Body) -> std::io::Result<Box<dyn env::Join>> {
        self.0.spawn(name, body)
    }

    fn run_blocking(&self, body: env::Body) {
        self.0.run_blocking(body);
    }

    fn run_in_background(&self, body: env::Body) {
        self.0.run_in_background(body);
    }

    fn signal(&self) -> Arc<dyn env::Signal> {
        Arc::new(PatientSignal(self.0.signal()))
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn unix_ms(&self) -> u64 {
        self.0.unix_ms()
    }

    fn random_u64(&self) -> u64 {
        self.0.random_u64()
    }
}

#[derive(Debug)]
struct PatientSignal(Arc<dyn env::Signal>);

impl env::Signal for PatientSignal {
    fn raise(&self) {
        self.0.raise();
    }

    fn wait(&self, _: Option<Duration>) -> bool {
        self.0.wait(None)
    }
}

pub fn setup(disk: impl Disk, dir: &Path) -> Setup {
    Setup {
        disk: Arc::new(disk),
        env: Arc::new(env::System::new()),
        observer: Arc::new(()),
        dir: dir.to_owned(),
        identity: identity("a log"),
        segment_bytes: SEGMENT_BYTES,
        cache_bytes_max: 4096,
        tail_bytes: 0,
    }
}

pub fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

/// A log's directory on a disk in memory.
pub fn dir() -> PathBuf {
    PathBuf::from("/data/log")
}

pub fn open(disk: &FaultyDisk) -> Result<DiskLog, disk::Error> {
    DiskLog::open(setup(disk.clone(), &dir()))
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits for what a thread of the log does by itself.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

pub fn vote(term: u64) -> Vote {
    Vote { leader_id: openraft::vote::leader_id_std::LeaderId { term, voted_for: MemberId::from(1) }, committed: true }
}

/// An entry whose value has `bytes` bytes that tell it from the entries before and behind it.
pub fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let tag = (term * 31 + index) as u8;
    let write = Write::Put {
        key: Key::new(format!("{term}/{index}"), 1024).unwrap(),
        value: Value::new(vec![tag; bytes], usize::MAX).unwrap(),
        condition: Condition::Always,
    };
    let data =
        Data { scope: ScopeId::ROOT, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes: vec![write] };
    let batch = Batch { time_unix_ms: index, commands: vec![Command::Data(data)] };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal(Arc::new(batch))) }
}

/// Queues an append; the receiver answers when it is durable.
pub async fn start_append<L: RaftLogStorage<TypeConfig>>(log: &mut L, entries: Vec<Entry>) -> std::io::Result<Synced> {
    let (done, synced) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await?;
    Ok(synced)
}

pub async fn append<L: RaftLogStorage<TypeConfig>>(log: &mut L, entries: Vec<Entry>) -> std::io::Result<()> {
    start_append(log, entries).await?.await.unwrap()
}
