//! The `values` group's log: own segments on the disk.
//!
//! 1. [`DiskLog`] is what openraft appends to and reads from (`raft`). An operation changes the log in memory
//!    (`shared`, `cache`) at once and is queued.
//! 2. The sync thread (`writer`) turns what is queued into records (`record`) and makes them durable, all that
//!    have come together by one `fdatasync`; then those who wait are told.
//! 3. Records go into segments of a fixed size (`segment`), made ahead of need and taken away behind the purge
//!    point by a second thread (`files`). A third (`reader`) reads back what memory no longer holds.
//! 4. When the log is opened, `recovery` reads the records again, and tells a tail torn by a crash, which is cut,
//!    from damage, which is refused. How far the log surely was durable also stands in a file of its own (`witness`).
//!
//! Entries, votes, truncations, purges and committed positions are records of one stream, in the order in which
//! they were asked for. A cut of its tail is therefore always a state that the log once had.

mod cache;
mod files;
mod raft;
mod reader;
mod record;
mod recovery;
mod segment;
mod shared;
mod witness;
mod writer;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use state::{bounds::BATCH_BYTES_MAX, ids::Position};
use storage::fs::Disk;
use tokio::sync::oneshot;

#[cfg(any(test, feature = "testing"))]
pub(crate) use self::record::fuzz::LOG_RECORD;
pub use self::segment::Identity;
use self::{
    files::Files,
    reader::Reader,
    record::State,
    recovery::Recovered,
    shared::{Live, Shared},
    witness::Witness,
    writer::Writer,
};
use super::{LocalLog, READ_BYTES_MAX, span::Span};
use crate::env::{Body, Env, Join};

/// The default size of a segment, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 << 20;
/// The smallest size of a segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The greatest size of a segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The default bound on the entries kept in memory, in bytes.
pub const CACHE_BYTES_DEFAULT: usize = 64 << 20;
/// The default of [`Setup::tail_bytes`].
pub const TAIL_BYTES_DEFAULT: u64 = 64 << 20;

const FIRST_SEGMENT: u64 = 1;
/// On a full disk this part of a segment is kept for what is vital.
const KEPT_FOR_VITAL: u64 = 8;
/// And this one for votes alone.
const KEPT_FOR_VOTES: u64 = 16;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system failed a file operation.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done, as a phrase that reads before the path.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's own error.
        source: io::Error,
    },
    /// What was durable is damaged. The node must not vote or serve with it; it can be rebuilt from its peers.
    #[error("the log is damaged: {path} at offset {offset}: {detail}")]
    Corrupt {
        /// The damaged segment.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        detail: String,
    },
    /// A segment between others is gone. As bad as [`Error::Corrupt`].
    #[error("the log is damaged: {path} is missing")]
    Missing {
        /// The missing segment.
        path: PathBuf,
    },
    /// A file of another log lies in the directory.
    #[error("{path} does not belong here: {reason}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        reason: String,
    },
    /// A later version of this program has written the log.
    #[error("{path} has format version {version}, which this version cannot read")]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// A later version of this program has written a record of the log.
    #[error("{path} holds a record of format version {version} at offset {offset}, which this version cannot read")]
    RecordVersion {
        /// The segment.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The record's format version.
        version: u8,
    },
    /// The size of a segment is not a multiple of 4096 within the bounds.
    #[error("a log segment cannot have {0} bytes: choose a multiple of 4096 from 65536 to 1073741824")]
    SegmentBytes(u64),
}

impl Error {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    fn corrupt(path: &Path, offset: u64, detail: String) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, detail }
    }
}

/// What is told of every sync, for the metrics. Called on the sync thread: it must be quick.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// A batch of `records` and `bytes` (padding included) is durable; writing and syncing it took `took`.
    fn synced(&self, took: Duration, bytes: usize, records: usize);
}

/// For whom nothing is observed.
impl Observer for () {
    fn synced(&self, _: Duration, _: usize, _: usize) {}
}

/// Where a log lives, and how large it may be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Threads and time.
    pub env: Arc<dyn Env>,
    /// Who is told of every sync.
    pub observer: Arc<dyn Observer>,
    /// The log's own directory; made when it does not exist.
    pub dir: PathBuf,
    /// Whose log it is.
    pub identity: Identity,
    /// The size of new segments, in bytes: see [`segment_bytes`]. A multiple of 4096 from [`SEGMENT_BYTES_MIN`] to
    /// [`SEGMENT_BYTES_MAX`]. An entry that does not fit a segment ends the log.
    pub segment_bytes: u64,
    /// The bound on the entries kept in memory, in bytes. Entries that are not durable yet are kept above it.
    pub cache_bytes_max: usize,
    /// How many bytes of entries that a checkpoint holds are kept all the same, for members that lag. The files take
    /// up to two segments more.
    pub tail_bytes: u64,
}

/// The size of a log's segments, in bytes: `least`, and at least four of the largest that is written at once. That is one
/// command, of `command_bytes_max`, or several that go together as one entry, or several entries that a leader sends
/// together.
pub fn segment_bytes(least: u64, command_bytes_max: u64) -> u64 {
    /// What an entry of several commands takes beside them, and an append beside its entries.
    const FRAME_BYTES: u64 = 64 << 10;
    let together_bytes = BATCH_BYTES_MAX.max(READ_BYTES_MAX) as u64 + FRAME_BYTES;
    least.max(4 * command_bytes_max.max(together_bytes)).next_multiple_of(segment::PAGE_BYTES)
}

/// A durable log. Clones share it; when the last one is dropped, the log closes by itself in the background.
#[derive(Clone)]
pub struct DiskLog {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
    env: Arc<dyn Env>,
    segment_bytes: u64,
    tail_bytes: u64,
}

struct Threads {
    shared: Arc<Shared>,
    /// The sync thread first: it ends the others.
    running: Mutex<Vec<Box<dyn Join>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl DiskLog {
    /// Opens the log, or makes an empty one. Blocks: it reads every segment.
    ///
    /// All that it then holds is durable. The last of what was never promised to anybody may be among it.
    pub fn open(setup: Setup) -> Result<Self, Error> {
        let Setup { disk, env, observer, dir, identity, segment_bytes, cache_bytes_max, tail_bytes } = setup;
        if !segment::is_size(segment_bytes) {
            return Err(Error::SegmentBytes(segment_bytes));
        }
        disk.create_dir(&dir).map_err(|source| Error::io("create", &dir, source))?;
        let recovered = match recovery::recover(&*disk, &dir, &identity)? {
            Some(recovered) => recovered,
            None => empty(&*disk, &dir, &identity, segment_bytes)?,
        };
        let Recovered { state, span, segments, offset, next } = recovered;
        let active = segments.values().next_back().map(Arc::clone).expect("a log has a segment");
        // One that was made for smaller entries is made anew, over this one.
        let next = next.filter(|next| next.bytes >= segment_bytes);

        let mut witness = Witness::new(Arc::clone(&disk), &dir, identity.clone());
        witness.prepare().map_err(|source| Error::io("make the witness in", &dir, source))?;
        let files = Files::new(
            (disk, dir.clone(), identity.clone()),
            segment_bytes,
            (env.signal(), env.signal()),
            active.seq,
            next,
        );
        let free_bytes = active.bytes.saturating_sub(offset);
        let live = Live::new(state, span, segments, (cache_bytes_max, free_bytes));
        let shared = Arc::new(Shared::new(live, env.signal(), files, Reader::new(env.signal())));
        let writer = Writer::new(
            Arc::clone(&shared),
            (Arc::clone(&env), observer),
            (identity, witness),
            (active, offset),
            state,
        );
        let threads = Arc::new(Threads { shared: Arc::clone(&shared), running: Mutex::default() });
        let log = Self { shared, threads, env: Arc::clone(&env), segment_bytes, tail_bytes };
        log.start(&*env, writer).map_err(|source| {
            log.shared.stop();
            Error::io("start the threads of", &dir, source)
        })?;
        Ok(log)
    }

    fn start(&self, env: &dyn Env, writer: Writer) -> io::Result<()> {
        let (files, reader) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let bodies: [(&str, Body); 3] = [
            ("log-sync", Box::new(move || writer.run())),
            ("log-files", Box::new(move || files::run(&files))),
            ("log-read", Box::new(move || reader::run(&reader))),
        ];
        for (name, body) in bodies {
            let thread = env.spawn(name, body)?;
            self.threads.running.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(())
    }

    /// Whether there is no room on the disk for the next segment: no more writes should be accepted. Costs one
    /// relaxed load. Becomes false by itself, about a second after there is room again.
    pub fn disk_full(&self) -> bool {
        self.shared.files.disk_full()
    }

    /// The error that ended the log, when one did: a failed write or sync. The node must stop.
    pub fn poisoned(&self) -> Option<io::Error> {
        self.shared.live().failure()
    }

    /// Writes what is queued and a last mark, makes it durable, and ends the threads. Blocks meanwhile. Every later
    /// operation fails. The error is the one that had poisoned the log, or does it now.
    pub fn close(&self) -> io::Result<()> {
        self.shared.close();
        let threads = std::mem::take(&mut *self.threads.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.join();
        }
        self.poisoned().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for DiskLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.shared.live();
        let mut shown = f.debug_struct("DiskLog");
        shown.field("indexes", &live.span.indexes()).field("segments", &live.segments.len()).finish_non_exhaustive()
    }
}

impl LocalLog for DiskLog {
    fn stalled_for(&self) -> Duration {
        match self.shared.busy.since() {
            Some(since) if !self.disk_full() => self.env.monotonic().saturating_sub(since),
            Some(_) | None => Duration::ZERO,
        }
    }

    fn has_room_for(&self, bytes: u64, vital: bool) -> bool {
        // A leader may be set to larger values than this node: what no segment has room for would wait for ever.
        let bytes = bytes.min(self.segment_bytes / 2);
        let kept_bytes = self.segment_bytes / if vital { KEPT_FOR_VOTES } else { KEPT_FOR_VITAL };
        let (free_bytes, queued_bytes) = {
            let live = self.shared.live();
            (live.free_bytes, live.queued_bytes)
        };
        // That no disk was found full says nothing of a segment that is not made yet. What the end of the present one is too
        // short for is lost to it: no more than the largest entry. Looked at second: a turn in between counts too little.
        let next_bytes = if self.shared.files.has_next() { self.segment_bytes / 4 * 3 } else { 0 };
        free_bytes.saturating_add(next_bytes) >= queued_bytes.saturating_add(bytes).saturating_add(kept_bytes)
    }

    fn give_back(&self) {
        self.shared.files.give_back();
    }

    fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    fn tail_start(&self, bytes: u64) -> u64 {
        let live = self.shared.live();
        live.span.tail_start(bytes, |index, slot| live.entry_bytes(index, slot))
    }

    fn note_committed(&self, position: Position) -> oneshot::Receiver<io::Result<()>> {
        let (done, noted) = oneshot::channel();
        if let Err((done, error)) = self.shared.note_committed(position, done) {
            // The receiver is held right here.
            let _ = done.send(Err(error));
        }
        noted
    }
}

fn empty(disk: &dyn Disk, dir: &Path, identity: &Identity, segment_bytes: u64) -> Result<Recovered, Error> {
    let first = segment::create(disk, dir, identity, FIRST_SEGMENT, segment_bytes)
        .map_err(|source| Error::io("make the first segment in", dir, source))?;
    Ok(Recovered {
        state: State::default(),
        span: Span::after(None),
        segments: BTreeMap::from([(FIRST_SEGMENT, Arc::new(first))]),
        offset: 0,
        next: None,
    })
}
