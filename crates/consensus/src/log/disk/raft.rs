//! What openraft asks of a log.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Range, RangeBounds},
};

use futures_util::stream::{self, Stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    DiskLog,
    record::StoredVote,
    shared::{Live, Op, Slot, Standing, closed},
};
use crate::{
    log::{READ_BYTES_MAX, half_open, weight},
    types::{Entry, LogId, TypeConfig, Vote, log_id, position},
};

impl DiskLog {
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let picked = {
            let live = self.shared.live();
            live.check()?;
            live.pick(range, bytes_max)
        };
        if picked.frames.is_empty() {
            return Ok(picked.entries);
        }
        let mut entries = self.shared.reader.read(picked.frames).await?;
        entries.extend(picked.entries);
        Ok(entries)
    }

    /// Queues something that nobody waits for.
    fn queue_lazily(&self, change: impl FnOnce(&mut Live)) -> io::Result<()> {
        let asleep = {
            let mut live = self.shared.live();
            live.check()?;
            change(&mut live);
            std::mem::take(&mut live.asleep)
        };
        if asleep {
            self.shared.work.raise();
        }
        Ok(())
    }

    fn queue_entries(&self, entries: Vec<Entry>, done: IOFlushed<TypeConfig>) -> io::Result<()> {
        {
            let mut live = self.shared.live();
            live.check()?;
            let ticket = live.ticket;
            live.ticket += entries.len() as u64;
            let Live { span, cache, queue, queued_bytes, .. } = &mut *live;
            let mut bytes = 0;
            for (ticket, entry) in (ticket..).zip(&entries) {
                let entry_bytes = weight::entry_bytes(entry);
                bytes += entry_bytes as u64;
                let slot = Slot { term: entry.log_id.leader_id.term, standing: Standing::Queued(ticket) };
                span.push(entry.log_id.index, slot).map_err(io::Error::other)?;
                cache.push(entry.clone(), entry_bytes);
            }
            *queued_bytes += bytes;
            queue.ops.push_back(Op::Append { entries, bytes, ticket, done });
            queue.urgent = true;
        }
        self.shared.work.raise();
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for DiskLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(half_open(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let live = self.shared.live();
        live.check()?;
        Ok(live.vote.map(Vote::from))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    /// In pieces of [`READ_BYTES_MAX`], so that applying a long log does not hold all of it.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let Range { start, end } = half_open(&range);
        let begin = (self.clone(), start, VecDeque::new());
        Box::pin(stream::try_unfold(begin, move |(log, mut next, mut piece)| async move {
            if piece.is_empty() {
                piece = log.read(next..end, READ_BYTES_MAX).await?.into();
            }
            let Some(entry) = piece.pop_front() else { return Ok(None) };
            next = entry.log_id.index + 1;
            Ok(Some((entry, (log, next, piece))))
        }))
    }
}

impl RaftLogStorage<TypeConfig> for DiskLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let live = self.shared.live();
        live.check()?;
        Ok(LogState { last_purged_log_id: live.span.purged().map(log_id), last_log_id: live.span.last().map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = StoredVote::from(vote);
        let (done, synced) = oneshot::channel();
        {
            let mut live = self.shared.live();
            live.check()?;
            live.vote = Some(vote);
            live.queue.ops.push_back(Op::Vote(vote, done));
            live.queue.urgent = true;
        }
        self.shared.work.raise();
        synced.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let committed = committed.as_ref().map(position);
        self.queue_lazily(|live| {
            live.committed = committed;
            live.queue.committed = Some(committed);
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let live = self.shared.live();
        live.check()?;
        Ok(live.committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let queued = self.queue_entries(entries.into_iter().collect(), callback);
        // An append that would leave a hole breaks what the log is: it ends here rather than on the disk.
        queued.inspect_err(|error| self.shared.poison(error))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.queue_lazily(|live| {
            let index = last.map(|last| last.index);
            live.span.truncate_after(index);
            live.cache.truncate_after(index);
            live.queue.ops.push_back(Op::Truncate(live.span.last()));
        })
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.queue_lazily(|live| {
            live.span.purge(position(&upto));
            live.cache.purge(upto.index);
            live.queue.ops.push_back(Op::Purge(position(&upto)));
        })
    }
}
