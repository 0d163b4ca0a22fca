//! What the log's threads and its callers share: the picture of the log in memory, and what waits to be written.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::storage::IOFlushed;
use state::ids::Position;
use tokio::sync::oneshot;

use super::{cache::Cache, files::Files, reader::Reader, record::StoredVote, segment::Segment};
use crate::{
    env::Signal,
    log::span::{Span, Termed},
    types::{Entry, TypeConfig},
};

/// An entry, as the log in memory knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its term.
    pub(super) term: u64,
    /// Where it is.
    pub(super) standing: Standing,
}

impl Termed for Slot {
    fn term(&self) -> u64 {
        self.term
    }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In the queue and in the cache. The ticket tells it from another entry that had its index before a truncation.
    Queued(u64),
    /// In a segment, and durable.
    Written(Location),
}

/// Where an entry's frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The segment's number.
    pub(super) segment: u64,
    /// The frame's offset in it.
    pub(super) offset: u32,
    /// The frame's bytes.
    pub(super) length: u32,
}

/// Something to be written, in order.
pub(super) enum Op {
    /// Entries, of a weight of `bytes` together; their tickets count up from the first one's.
    Append { entries: Vec<Entry>, bytes: u64, ticket: u64, done: IOFlushed<TypeConfig> },
    /// A vote.
    Vote(StoredVote, oneshot::Sender<io::Result<()>>),
    /// The removal of all entries behind this one.
    Truncate(Option<Position>),
    /// The removal of all entries up to this one.
    Purge(Position),
    /// All up to this entry, which need not be in the log, is committed; somebody waits for that to be durable.
    Committed(Position, oneshot::Sender<io::Result<()>>),
}

impl Op {
    /// Tells whoever waits that it will never be durable.
    pub(super) fn fail(self, error: io::Error) {
        match self {
            Self::Append { done, .. } => done.io_completed(Err(error)),
            Self::Vote(_, done) | Self::Committed(_, done) => {
                // Whoever asked may have gone away.
                let _ = done.send(Err(error));
            }
            Self::Truncate(_) | Self::Purge(_) => {}
        }
    }
}

/// Whoever waits for a note to be durable.
pub(super) type Noted = oneshot::Sender<io::Result<()>>;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue {
    /// In order.
    pub(super) ops: VecDeque<Op>,
    /// The newest committed entry that is not in the log yet. A hint for the next start that nobody waits for.
    pub(super) committed: Option<Option<Position>>,
    /// Whether anybody waits for a sync of what is queued.
    pub(super) urgent: bool,
}

/// The log in memory.
pub(super) struct Live {
    /// The entries there are.
    pub(super) span: Span<Slot>,
    /// The newest of them.
    pub(super) cache: Cache,
    /// The vote.
    pub(super) vote: Option<StoredVote>,
    /// The last entry known to be committed.
    pub(super) committed: Option<Position>,
    /// The segments, by number.
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    /// What waits to be written.
    pub(super) queue: Queue,
    /// The ticket of the next entry.
    pub(super) ticket: u64,
    /// What the segment that is written to has left behind what is durable.
    pub(super) free_bytes: u64,
    /// About what the entries take that are not durable yet.
    pub(super) queued_bytes: u64,
    /// Whether the sync thread sleeps until it is told to wake.
    pub(super) asleep: bool,
    /// Whether the log is being closed.
    pub(super) closing: bool,
    failure: Option<(io::ErrorKind, String)>,
}

impl Live {
    /// The log as it was found.
    pub(super) fn new(
        state: super::record::State,
        span: Span<Slot>,
        segments: BTreeMap<u64, Arc<Segment>>,
        (cache_bytes_max, free_bytes): (usize, u64),
    ) -> Self {
        Self {
            span,
            cache: Cache::new(cache_bytes_max),
            vote: state.vote,
            committed: state.committed,
            segments,
            queue: Queue::default(),
            ticket: 0,
            free_bytes,
            queued_bytes: 0,
            asleep: false,
            closing: false,
            failure: None,
        }
    }

    /// What poisoned the log.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.failure.as_ref().map(|(kind, what)| io::Error::new(*kind, what.clone()))
    }

    /// Fails when the log is poisoned or closed.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.failure() {
            Some(failure) => Err(failure),
            None if self.closing => Err(closed()),
            None => Ok(()),
        }
    }

    /// How many bytes the entry at `index` takes, in `slot`.
    pub(super) fn entry_bytes(&self, index: u64, slot: &Slot) -> u64 {
        match slot.standing {
            Standing::Written(location) => u64::from(location.length),
            Standing::Queued(_) => self.cache.get(index).map_or(0, |(_, bytes)| bytes as u64),
        }
    }

    /// The entries of `range` from memory where they are there, from the disk where not, as many as fit in
    /// `bytes_max`, but at least one.
    pub(super) fn pick(&self, range: Range<u64>, bytes_max: usize) -> Picked {
        let mut picked = Picked { frames: Vec::new(), entries: Vec::new() };
        let mut bytes = 0;
        for (index, slot) in self.span.range(range) {
            let cached = self.cache.get(index);
            bytes += match (cached, slot.standing) {
                (Some((_, bytes)), _) => bytes,
                (None, Standing::Written(location)) => location.length as usize,
                (None, Standing::Queued(_)) => unreachable!("a queued entry is in the cache until it is written"),
            };
            if bytes > bytes_max && !(picked.frames.is_empty() && picked.entries.is_empty()) {
                break;
            }
            match (cached, slot.standing) {
                (Some((entry, _)), _) => picked.entries.push(entry.clone()),
                (None, Standing::Written(location)) => {
                    let segment = self.segments.get(&location.segment).expect("a segment with live entries is kept");
                    picked.frames.push((Arc::clone(segment), location, Position { term: slot.term, index }));
                }
                (None, Standing::Queued(_)) => {}
            }
        }
        picked
    }
}

/// What a read takes: first from the disk, then, behind that, from memory.
pub(super) struct Picked {
    /// Where older entries lie.
    pub(super) frames: Vec<Frame>,
    /// Newer entries.
    pub(super) entries: Vec<Entry>,
}

/// An entry on the disk. The segment in it keeps the file from being used again until it has been read.
pub(super) type Frame = (Arc<Segment>, Location, Position);

/// Since when the sync thread has been at one write, one sync, or waiting for its next segment.
#[derive(Default)]
pub(super) struct Busy(AtomicU64);

impl Busy {
    /// What it is at began now, `at` on the environment's clock.
    pub(super) fn begin(&self, at: Duration) {
        self.0.store(u64::try_from(at.as_micros()).unwrap_or(u64::MAX).saturating_add(1), Ordering::Relaxed);
    }

    /// It is at nothing any more.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// When what it is at began, on the environment's clock.
    pub(super) fn since(&self) -> Option<Duration> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}

/// What all handles of one log, and its threads, hold.
pub(super) struct Shared {
    live: Mutex<Live>,
    /// What the watchdog looks at.
    pub(super) busy: Busy,
    /// Wakes the sync thread.
    pub(super) work: Arc<dyn Signal>,
    /// The files that are made ahead and removed behind.
    pub(super) files: Files,
    /// The reads that go to the disk.
    pub(super) reader: Reader,
}

impl Shared {
    /// Puts the parts together.
    pub(super) fn new(live: Live, work: Arc<dyn Signal>, files: Files, reader: Reader) -> Self {
        Self { live: Mutex::new(live), busy: Busy::default(), work, files, reader }
    }

    /// The log in memory.
    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        // A panic elsewhere has poisoned the log itself: see `poison_on_panic`.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a note that somebody waits for; gives `done` back when the log takes nothing any more.
    pub(super) fn note_committed(&self, position: Position, done: Noted) -> Result<(), (Noted, io::Error)> {
        {
            let mut live = self.live();
            if let Err(error) = live.check() {
                return Err((done, error));
            }
            live.committed = live.committed.max(Some(position));
            let committed = live.committed.unwrap_or(position);
            // It holds no more than this, and would be written behind it.
            live.queue.committed = None;
            live.queue.ops.push_back(Op::Committed(committed, done));
            live.queue.urgent = true;
        }
        self.work.raise();
        Ok(())
    }

    /// Ends the log: from now on every operation fails with `error`. Only the first one counts.
    pub(super) fn poison(&self, error: &io::Error) {
        let ops = {
            let mut live = self.live();
            live.failure.get_or_insert_with(|| (error.kind(), error.to_string()));
            std::mem::take(&mut live.queue).ops
        };
        for op in ops {
            op.fail(again(error));
        }
        self.stop();
    }

    /// Asks the sync thread to write what is queued, and to end.
    pub(super) fn close(&self) {
        self.live().closing = true;
        self.work.raise();
        self.files.close();
    }

    /// Asks all threads to end as they are.
    pub(super) fn stop(&self) {
        self.live().closing = true;
        self.work.raise();
        self.files.stop();
        self.reader.stop();
    }
}

/// Poisons the log when the thread that holds this panics: nobody may wait for a thread that is gone.
pub(super) struct PoisonOnPanic<'a>(pub(super) &'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison(&io::Error::other("a thread of the log has panicked"));
        }
    }
}

/// What operations on a closed log get.
pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

/// The same error once more: the operating system's cannot be cloned.
pub(super) fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
