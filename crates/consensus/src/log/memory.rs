//! The `cache` group's log: in memory only. What is appended is as safe as it ever gets at once, so every callback
//! is completed before the call returns. How much it keeps is the purger's to say.

use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};

use super::{
    READ_BYTES_MAX, half_open,
    span::{Span, Termed},
    weight,
};
use crate::types::{Entry, LogId, TypeConfig, Vote, log_id, position};

/// A log that is gone with its process. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    live: Arc<Mutex<Live>>,
}

#[derive(Debug)]
struct Live {
    span: Span<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Termed for Entry {
    fn term(&self) -> u64 {
        self.log_id.leader_id.term
    }
}

impl MemoryLog {
    /// An empty log, without a vote.
    pub fn new() -> Self {
        let live = Live { span: Span::after(None), vote: None, committed: None };
        Self { live: Arc::new(Mutex::new(live)) }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("nothing panics while it holds the log")
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.live().span.range(half_open(&range)).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.live().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let live = self.live();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (_, entry) in live.span.range(start..end) {
            bytes += weight::entry_bytes(entry);
            if bytes > READ_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
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
                live.span.push(entry.log_id.index, entry).map_err(io::Error::other)?;
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
        self.live().span.purge(position(&upto));
        Ok(())
    }
}
