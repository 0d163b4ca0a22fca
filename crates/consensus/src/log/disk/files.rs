//! The segments ahead and behind: a thread that makes the next one before it is needed, and takes the old ones away.
//!
//! 1. The sync thread takes the next segment when the present one is full, and then orders one more.
//! 2. A segment whose entries are all purged is handed over, oldest first. It becomes a spare, or, when there are as many
//!    as the last purges have brought, is removed: so many were filled between two purges, and as many will be before the next. Each
//!    that brings fewer makes it one spare less. A segment that a reader still holds is always removed: only a file that
//!    nobody reads is overwritten.
//! 3. A spare, renamed, is the next segment. Its old content does no harm: the CRC of every record covers the
//!    segment's number. Without a spare, the next segment is filled with zeros: as much to write again as its entries.
//! 4. When the disk has no room for it, [`Files::disk_full`] tells those who accept writes, and it is tried again
//!    every second. What was accepted already has the rest of the present segment. Where the store lacks room, the spares are
//!    given back.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use storage::fs::Disk;

use super::{
    record::Life,
    segment::{self, Identity, Name, Segment},
    shared::{PoisonOnPanic, Shared, closed},
};
use crate::env::Signal;

/// How long after the disk was found full it is tried again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// How many bytes of spares are kept at most, or one segment.
const SPARE_BYTES_MAX: u64 = 256 << 20;

/// The segments that are not in use.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    segment_bytes: u64,
    full: AtomicBool,
    yard: Mutex<Yard>,
    /// Wakes this module's thread.
    work: Arc<dyn Signal>,
    /// Wakes the sync thread when it waits for a segment.
    ready: Arc<dyn Signal>,
}

#[derive(Default)]
struct Yard {
    next: Option<Segment>,
    /// The number of the segment to make; none while `next` waits to be taken.
    wanted: Option<u64>,
    spares: Vec<Segment>,
    /// How many spares are kept.
    spares_wanted: usize,
    retired: VecDeque<Arc<Segment>>,
    closing: bool,
    stopped: bool,
}

/// What the thread does next.
enum Task {
    Make(u64),
    Retire(Arc<Segment>),
    /// A spare too many.
    Remove(Segment),
    Wait,
    Stop,
}

impl Files {
    /// What goes on behind the segment `active`, when `next` was found prepared.
    pub(super) fn new(
        (disk, dir, identity): (Arc<dyn Disk>, PathBuf, Identity),
        segment_bytes: u64,
        (work, ready): (Arc<dyn Signal>, Arc<dyn Signal>),
        active: u64,
        next: Option<Segment>,
    ) -> Self {
        let wanted = if next.is_some() { None } else { Some(active + 1) };
        let yard = Mutex::new(Yard { next, wanted, ..Yard::default() });
        Self { disk, dir, identity, segment_bytes, full: AtomicBool::new(false), yard, work, ready }
    }

    /// Whether there is no room for the next segment.
    pub(super) fn disk_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes the next segment. None when it is not made yet.
    pub(super) fn try_next(&self) -> Option<Segment> {
        self.yard().next.take()
    }

    /// Whether the next segment is made.
    pub(super) fn has_next(&self) -> bool {
        self.yard().next.is_some()
    }

    /// Orders the segment `seq` to be the next.
    pub(super) fn order(&self, seq: u64) {
        self.yard().wanted = Some(seq);
        self.work.raise();
    }

    /// As [`Files::try_next`], but waits for it. Fails only when the log ends.
    pub(super) fn wait_next(&self) -> io::Result<Segment> {
        loop {
            if let Some(next) = self.try_next() {
                return Ok(next);
            }
            let yard = self.yard();
            if yard.stopped || (yard.closing && self.disk_full()) {
                return Err(closed());
            }
            drop(yard);
            self.ready.wait(None);
        }
    }

    /// Takes segments away that hold nothing live, oldest first.
    pub(super) fn retire(&self, segments: Vec<Arc<Segment>>) {
        let spares_max = usize::try_from(SPARE_BYTES_MAX / self.segment_bytes).unwrap_or(usize::MAX).max(1);
        let mut yard = self.yard();
        yard.spares_wanted = segments.len().max(yard.spares_wanted.saturating_sub(1)).clamp(1, spares_max);
        yard.retired.extend(segments);
        drop(yard);
        self.work.raise();
    }

    /// Gives the disk back what the spares take.
    pub(super) fn give_back(&self) {
        self.yard().spares_wanted = 0;
        self.work.raise();
    }

    /// From now on nobody waits for room on a full disk.
    pub(super) fn close(&self) {
        self.yard().closing = true;
        self.ready.raise();
    }

    /// Ends the thread after what it is at.
    pub(super) fn stop(&self) {
        self.yard().stopped = true;
        self.work.raise();
        self.ready.raise();
    }

    fn yard(&self) -> MutexGuard<'_, Yard> {
        self.yard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> Task {
        let mut yard = self.yard();
        if yard.stopped {
            return Task::Stop;
        }
        match yard.wanted {
            // A spare is the next segment at the cost of a rename: when there can be one, that comes first.
            Some(seq) if !yard.spares.is_empty() || yard.retired.is_empty() => Task::Make(seq),
            Some(_) | None => match yard.retired.pop_front() {
                Some(retired) => Task::Retire(retired),
                None if yard.spares.len() > yard.spares_wanted => yard.spares.pop().map_or(Task::Wait, Task::Remove),
                None => Task::Wait,
            },
        }
    }

    fn make(&self, seq: u64) -> io::Result<()> {
        let spare = self.yard().spares.pop();
        let next = match spare {
            None => segment::create(&*self.disk, &self.dir, &self.identity, seq, self.segment_bytes)?,
            Some(spare) => self.revive(seq, spare)?,
        };
        {
            let mut yard = self.yard();
            yard.next = Some(next);
            yard.wanted = None;
        }
        self.ready.raise();
        Ok(())
    }

    fn revive(&self, seq: u64, spare: Segment) -> io::Result<Segment> {
        let path = Name::Segment(seq).path(&self.dir);
        if let Err(error) = self.disk.rename(&spare.path, &path) {
            self.yard().spares.push(spare);
            return Err(error);
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(Segment { seq, life: Life::new(&self.identity, seq), path, ..spare })
    }

    fn retire_one(&self, retired: Arc<Segment>) -> io::Result<()> {
        let path = retired.path.clone();
        let is_wanted = {
            let yard = self.yard();
            // One that is wanted at once spares the disk the zeros, also where none is to be kept.
            yard.spares.len() < yard.spares_wanted || (yard.wanted.is_some() && yard.spares.is_empty())
        };
        match Arc::try_unwrap(retired) {
            Ok(segment) if is_wanted && segment.bytes == self.segment_bytes => {
                let spare = Name::Spare(segment.seq).path(&self.dir);
                self.disk.rename(&path, &spare)?;
                self.yard().spares.push(Segment { path: spare, ..segment });
            }
            Ok(_) | Err(_) => self.disk.remove(&path)?,
        }
        // One after another, so that a crash never leaves an older one without a newer.
        self.disk.sync_dir(&self.dir)
    }
}

/// The thread.
pub(super) fn run(shared: &Shared) {
    let _guard = PoisonOnPanic(shared);
    let files = &shared.files;
    loop {
        let done = match files.task() {
            Task::Stop => return,
            Task::Wait => {
                files.work.wait(None);
                Ok(())
            }
            Task::Retire(retired) => files.retire_one(retired),
            Task::Remove(spare) => match files.disk.remove(&spare.path) {
                // Somebody who needed room took it first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
            Task::Make(seq) => match files.make(seq) {
                Ok(()) => {
                    if files.full.swap(false, Ordering::Relaxed) {
                        tracing::info!(segment = seq, "the disk has room for the log again");
                    }
                    Ok(())
                }
                Err(error) if storage::fs::is_full(&error) => {
                    if !files.full.swap(true, Ordering::Relaxed) {
                        tracing::warn!(segment = seq, %error, "the disk has no room for the log's next segment");
                    }
                    files.ready.raise();
                    files.work.wait(Some(FULL_RETRY));
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            let dir = files.dir.display();
            shared.poison(&io::Error::new(error.kind(), format!("cannot change the files of {dir}: {error}")));
            return;
        }
    }
}
