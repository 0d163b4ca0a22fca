//! The `cache` group's log: in memory only. What is appended is as safe as it ever gets at once, so every callback
//! is completed before the call returns.

use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};

use state::ids::Position;
use tokio::sync::oneshot;

use super::{
    LocalLog, READ_BYTES_MAX,
    gone::Gone,
    half_open,
    span::{Span, Termed},
    weight,
};
use crate::types::{Entry, LogId, TypeConfig, Vote, log_id, position};

/// A log that is gone with its process. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    live: Arc<Mutex<Live>>,
    tail_bytes: u64,
}

#[derive(Debug)]
struct Live {
    span: Span<Held>,
    /// What was purged.
    gone: Gone<Held>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// An entry with its [weight](weight::entry_bytes).
#[derive(Debug)]
struct Held {
    entry: Entry,
    bytes: usize,
}

impl Termed for Held {
    fn term(&self) -> u64 {
        self.entry.log_id.leader_id.term
    }
}

impl MemoryLog {
    /// An empty log, without a vote, that keeps `tail_bytes` of entries for members that lag.
    pub fn new(tail_bytes: u64) -> Self {
        let live = Live { span: Span::after(None), gone: Gone::default(), vote: None, committed: None };
        Self { live: Arc::new(Mutex::new(live)), tail_bytes }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("nothing panics while it holds the log")
    }
}

/// A log that keeps nothing that a checkpoint holds.
impl Default for MemoryLog {
    fn default() -> Self {
        Self::new(0)
    }
}

impl LocalLog for MemoryLog {
    fn stalled_for(&self) -> Duration {
        Duration::ZERO
    }

    fn has_room_for(&self, _: u64, _: bool) -> bool {
        true
    }

    fn give_back(&self) {}

    fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    fn tail_start(&self, bytes: u64) -> u64 {
        self.live().span.tail_start(bytes, |_, held| held.bytes as u64)
    }

    fn note_committed(&self, position: Position) -> oneshot::Receiver<io::Result<()>> {
        {
            let mut live = self.live();
            live.committed = live.committed.max(Some(log_id(position)));
        }
        let (done, noted) = oneshot::channel();
        // The receiver is held right here.
        let _ = done.send(Ok(()));
        noted
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.live().span.range(half_open(&range)).map(|(_, held)| held.entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.live().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let live = self.live();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (_, held) in live.span.range(start..end) {
            bytes += held.bytes;
            if bytes > READ_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(held.entry.clone());
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let live = self.live();
        Ok(LogState { last_purged_log_id: live.span.purged().map(log_id), last_log_id: live.span.last().map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.live().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.live().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.live().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        {
            let mut live = self.live();
            for entry in entries {
                let bytes = weight::entry_bytes(&entry);
                live.span.push(entry.log_id.index, Held { entry, bytes }).map_err(io::Error::other)?;
                live.gone.free_some();
            }
        }
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.live().span.truncate_after(last.map(|last| last.index));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let Live { span, gone, .. } = &mut *self.live();
        gone.take(span.purge(position(&upto)));
        Ok(())
    }
}
