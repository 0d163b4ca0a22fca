//! What a start re-applies: the entries that the log knows to be committed and the state does not hold yet.
//!
//! openraft would do it as well, in pieces of 64 entries, which one thread reads, looks up and applies in turn. After a crash it
//! is all that came since the last checkpoint but one began, and the node serves nobody meanwhile. So it is done here, before
//! openraft looks, in larger pieces; and while one is applied, another thread reads the next one and looks up the rows that it
//! changes, which is half of the work. openraft finds nothing left to do.

use std::{io, sync::Arc};

use openraft::{
    EntryPayload,
    storage::{RaftLogReader, RaftLogStorage},
};
use state::apply::Shared;
use storage::{Ahead, Engine};

use crate::{
    env::{self, Env},
    state_machine::Machine,
    types::{Entry, TypeConfig},
};

/// The most entries of a piece: some thousand commands where many write at once. It also has no more bytes than a read of the
/// log may have.
const PIECE_ENTRIES_MAX: u64 = 256;
/// The most that the rows which are looked up for a piece may take, in bytes: they may be far longer than the piece.
const AHEAD_BYTES_MAX: usize = 8 << 20;

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reapplied {
    /// How many entries.
    pub(crate) entries: u64,
    /// How many rows were looked up ahead.
    pub(crate) rows_ahead: u64,
}

/// Brings the state to where the log knows that it may come.
///
/// # Errors
/// What reading the log or the state fails with.
pub(crate) async fn reapply<E: Engine, L: RaftLogStorage<TypeConfig>>(
    machine: &mut Machine<E>,
    log: &mut L,
    env: &Arc<dyn Env>,
) -> io::Result<Reapplied> {
    let mut done = Reapplied::default();
    let next = machine.applied().position.map_or(0, |applied| applied.index + 1);
    let end = log.read_committed().await?.map_or(0, |committed| committed.index + 1);
    if next >= end {
        return Ok(done);
    }
    tracing::info!(first = next, last = end - 1, "re-applying what the log holds behind the last checkpoint");
    let log = Committed { reader: log.get_log_reader().await, next, end };
    let mut pieces = Pieces { log, shared: machine.shared(), env: env.clone() };
    let mut upcoming;
    (pieces, upcoming) = pieces.begin_next().await;
    while let Some((entries, ahead)) = upcoming? {
        done.entries += entries.len() as u64;
        done.rows_ahead += ahead.count() as u64;
        let begun = pieces.begin_next();
        let applied = machine.reapply(entries, ahead);
        // Also after a fault: who opens the store next must be the only one.
        (pieces, upcoming) = begun.await;
        applied.map_err(io::Error::other)?;
    }
    tracing::info!(entries = done.entries, rows_ahead = done.rows_ahead, "re-applied");
    Ok(done)
}

/// Entries that follow each other, with the rows that they are about.
type Piece<E> = (Vec<Entry>, Ahead<<E as Engine>::View>);

struct Pieces<R, E: Engine> {
    log: Committed<R>,
    shared: Shared<E>,
    env: Arc<dyn Env>,
}

impl<R: RaftLogReader<TypeConfig>, E: Engine> Pieces<R, E> {
    /// Begins to prepare the next piece, at once and on another thread; none at the end.
    fn begin_next(mut self) -> impl Future<Output = (Self, io::Result<Option<Piece<E>>>)> {
        env::blocking(&*self.env.clone(), move || {
            let piece = self.next();
            (self, piece)
        })
    }

    fn next(&mut self) -> io::Result<Option<Piece<E>>> {
        let entries = env::block_on(&*self.env, self.log.read())?;
        if entries.is_empty() {
            return Ok(None);
        }
        let batches = entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => Some(&*proposal.0),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        let ahead = self.shared.look_ahead(batches, AHEAD_BYTES_MAX).map_err(io::Error::other)?;
        Ok(Some((entries, ahead)))
    }
}

/// What the log holds of what it says is committed.
struct Committed<R> {
    reader: R,
    next: u64,
    end: u64,
}

impl<R: RaftLogReader<TypeConfig>> Committed<R> {
    /// The next entries; none at the end.
    async fn read(&mut self) -> io::Result<Vec<Entry>> {
        if self.next >= self.end {
            return Ok(Vec::new());
        }
        let end = self.end.min(self.next + PIECE_ENTRIES_MAX);
        let entries = self.reader.limited_get_log_entries(self.next, end).await?;
        let are_next = entries.iter().map(|entry| entry.log_id.index).eq((self.next..).take(entries.len()));
        if entries.is_empty() || !are_next {
            let detail =
                format!("of the entries from {} on, which the log says are committed, it lacks some", self.next);
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        self.next += entries.len() as u64;
        Ok(entries)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fmt::Debug, ops::RangeBounds};

    use futures_util::stream;
    use openraft::{
        OptionalSend,
        entry::RaftEntry as _,
        storage::{IOFlushed, RaftStateMachine},
    };
    use state::{
        command::{Batch, Command, Condition, Data, Write},
        ids::{ApiKeyId, Position, ScopeId},
        kv::{Key, Value},
    };
    use storage::MemoryEngine;

    use super::*;
    use crate::{
        env::System,
        log::memory::MemoryLog,
        state_machine::tests::machine,
        types::{Proposal, Vote, log_id},
    };

    fn id(index: u64) -> crate::types::LogId {
        log_id(Position { term: 1, index })
    }

    /// Sets one of 300 keys.
    fn set(index: u64) -> Entry {
        let write = Write::Put {
            key: Key::new(format!("k{}", index % 300), 100).unwrap(),
            value: Value::new(format!("{index}"), 100).unwrap(),
            condition: Condition::Always,
        };
        let (scope, api_key) = (ScopeId::ROOT, ApiKeyId::ROOT);
        let data = Data { scope, api_key, request: None, quota_bytes: None, writes: vec![write] };
        let batch = Batch { time_unix_ms: 0, commands: vec![Command::Data(data)] };
        Entry::new(id(index), EntryPayload::Normal(Proposal(Arc::new(batch))))
    }

    #[tokio::test]
    async fn it_comes_to_where_the_log_is_committed_and_no_further() {
        let entries = || (0..700).map(set);
        let env: Arc<dyn Env> = Arc::new(System::new());
        let mut log = MemoryLog::default();
        log.append(entries(), IOFlushed::noop()).await.unwrap();
        let mut machine_at_start = machine(MemoryEngine::new());
        let mut reapply = async |committed: Option<u64>| {
            log.save_committed(committed.map(id)).await.unwrap();
            reapply(&mut machine_at_start, &mut log, &env).await.unwrap()
        };
        assert_eq!(reapply(None).await, Reapplied::default());
        // In pieces of 256, 256 and 88 entries, none of which is about a key twice.
        assert_eq!(reapply(Some(599)).await, Reapplied { entries: 600, rows_ahead: 600 });
        assert_eq!(reapply(Some(599)).await, Reapplied::default());
        assert_eq!(reapply(Some(3)).await, Reapplied::default());
        let mut one_by_one = machine(MemoryEngine::new());
        one_by_one.apply(stream::iter(entries().take(600).map(|entry| Ok((entry, None))))).await.unwrap();
        assert_eq!(machine_at_start.applied(), one_by_one.applied());
    }

    /// A log that has these.
    struct Holding(Vec<u64>);

    impl RaftLogReader<TypeConfig> for Holding {
        async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
        where
            R: RangeBounds<u64> + Clone + Debug + OptionalSend,
        {
            let indexes = self.0.iter().filter(|index| range.contains(index));
            Ok(indexes.map(|index| Entry::new(id(*index), EntryPayload::Blank)).collect())
        }

        async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
            unreachable!("votes are not re-applied")
        }
    }

    #[tokio::test]
    async fn a_log_that_lacks_what_it_says_is_committed_is_refused() {
        async fn read(held: &[u64]) -> Result<usize, String> {
            let mut log = Committed { reader: Holding(held.to_vec()), next: 5, end: 8 };
            log.read().await.map(|entries| entries.len()).map_err(|error| error.to_string())
        }
        assert_eq!(read(&[4, 5, 6, 7, 8]).await, Ok(3));
        for held in [&[][..], &[6, 7], &[5, 7], &[4]] {
            let refused = read(held).await.unwrap_err();
            assert!(refused.contains("from 5 on"), "{held:?}: {refused}");
        }
        let mut log = Committed { reader: Holding(vec![5, 6]), next: 5, end: 8 };
        assert_eq!(log.read().await.unwrap().len(), 2, "a piece may be short");
        assert!(log.read().await.is_err());
    }
}
