//! The sync thread: the only one that writes records.
//!
//! 1. It takes all that is queued, and puts it into one buffer behind a mark that says up to where the log is
//!    durable now: one write, one `fdatasync` a batch. What is queued meanwhile is the next batch.
//! 2. Then the entries' places are known to readers, and those who wait are told.
//! 3. A batch that comes to the end of its segment is cut there: the rest goes into the next segment, which opens
//!    with its header and the state in force, and only when the full one is durable.
//! 4. Nobody waits for purges and truncations, and hardly anybody for committed positions: they go with the next batch, or with the one
//!    that is written when the log falls idle. So does the last mark. Until that is durable the last batch
//!    looks like one that was torn, and may be cut, should it be damaged; therefore segments below a purge are
//!    given away only when a durable mark covers the purge. When a last mark is durable, the witness is told what it says.
//! 5. Any error ends the log. A failed sync is never repeated: the operating system may have dropped what it failed
//!    to write, and a second sync would say that all is well.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use openraft::storage::IOFlushed;
use state::ids::Position;
use tokio::sync::oneshot;

use super::{
    Observer,
    record::{self, Place, SEALED_FRAME_BYTES, State},
    segment::{Header, Identity, PAGE_BYTES, Segment},
    shared::{Live, Location, Op, PoisonOnPanic, Queue, Shared, Standing, again},
    witness::Witness,
};
use crate::{
    env::Env,
    types::{Entry, TypeConfig},
};

/// How long the log is quiet before what nobody waits for is written.
const IDLE: Duration = Duration::from_millis(100);

/// The sync thread's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    env: Arc<dyn Env>,
    observer: Arc<dyn Observer>,
    identity: Identity,
    witness: Witness,
    /// The segment that is written to.
    active: Arc<Segment>,
    /// Up to where the log is durable; the batch in `buffer` will lie there.
    synced: Place,
    /// What the last durable mark says.
    marked: Place,
    /// Whether records are durable that no durable mark covers.
    unmarked: bool,
    /// Where the newest durable purge lies, until the segments below it are given away.
    purge: Option<Place>,
    /// What is in force behind the last record of `buffer`.
    state: State,
    buffer: Vec<u8>,
    batch: Batch,
}

/// What the records in the buffer mean to others.
#[derive(Default)]
struct Batch {
    mark: Option<Place>,
    records: usize,
    purges: bool,
    /// What [`Live::queued_bytes`] counts of it.
    queued_bytes: u64,
    /// Entries, by index and ticket, and where they will be.
    entries: Vec<(u64, u64, Location)>,
    waiting: Vec<Waiting>,
}

/// Who is told when the batch is durable.
enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Other(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Append(done) => done.io_completed(result),
            Self::Other(done) => {
                // Whoever asked may have gone away.
                let _ = done.send(result);
            }
        }
    }
}

impl Writer {
    /// A writer that goes on at `offset` of `active`, behind `state`.
    pub(super) fn new(
        shared: Arc<Shared>,
        (env, observer): (Arc<dyn Env>, Arc<dyn Observer>),
        (identity, witness): (Identity, Witness),
        (active, offset): (Arc<Segment>, u64),
        state: State,
    ) -> Self {
        let synced = Place { segment: active.seq, offset };
        Self {
            shared,
            env,
            observer,
            identity,
            witness,
            active,
            synced,
            marked: Place::default(),
            unmarked: offset > 0,
            // The last run may have ended before it had given all segments away.
            purge: state.purged.map(|_| synced),
            state,
            buffer: Vec::new(),
            batch: Batch::default(),
        }
    }

    /// The thread.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _guard = PoisonOnPanic(&shared);
        loop {
            let (mut queue, closing) = self.await_work();
            let mut done = self.write(&mut queue);
            if closing && done.is_ok() && self.unmarked {
                done = self.write(&mut Queue::default());
            }
            if let Err(error) = done.and_then(|()| self.witness()) {
                self.fail(queue.ops, &error);
                return;
            }
            if closing {
                shared.stop();
                return;
            }
        }
    }

    /// Waits until somebody waits for a sync, or the log falls idle with something left to write, or it closes.
    fn await_work(&self) -> (Queue, bool) {
        loop {
            let timeout = {
                let mut live = self.shared.live();
                live.asleep = false;
                if live.queue.urgent || live.closing {
                    return (std::mem::take(&mut live.queue), live.closing);
                }
                let left = self.unmarked || !live.queue.ops.is_empty() || live.queue.committed.is_some();
                live.asleep = !left;
                left.then_some(IDLE)
            };
            if !self.shared.work.wait(timeout) {
                let mut live = self.shared.live();
                return (std::mem::take(&mut live.queue), live.closing);
            }
        }
    }

    /// Writes what is queued, and makes it durable. What it has not come to when it fails is left in the queue.
    fn write(&mut self, queue: &mut Queue) -> io::Result<()> {
        self.begin()?;
        while let Some(op) = queue.ops.pop_front() {
            self.op(op)?;
        }
        if let Some(committed) = queue.committed.take() {
            self.push(|out| record::put_committed(out, committed))?;
            self.state.committed = committed;
        }
        self.flush()
    }

    /// Tells the witness how far the log is durable, once nothing was written since that no mark covers.
    fn witness(&mut self) -> io::Result<()> {
        if self.unmarked || !self.witness.has_news(self.marked) {
            return Ok(());
        }
        self.shared.busy.begin(self.env.monotonic());
        self.witness.tell(self.marked)?;
        self.shared.busy.end();
        Ok(())
    }

    fn op(&mut self, op: Op) -> io::Result<()> {
        match op {
            Op::Append { entries, bytes, ticket, done } => {
                let pushed = (ticket..).zip(&entries).try_for_each(|(ticket, entry)| self.entry(ticket, entry));
                self.batch.queued_bytes += bytes;
                self.settle(pushed, Waiting::Append(done))
            }
            Op::Vote(vote, done) => {
                let pushed = self.push(|out| record::put_vote(out, &vote)).map(|_| ());
                self.state.vote = Some(vote);
                self.settle(pushed, Waiting::Other(done))
            }
            Op::Committed(upto, done) => {
                let pushed = self.push(|out| record::put_committed(out, Some(upto))).map(|_| ());
                self.state.committed = Some(upto);
                self.settle(pushed, Waiting::Other(done))
            }
            Op::Truncate(last) => {
                self.push(|out| record::put_truncated(out, last))?;
                self.state.last = last;
                Ok(())
            }
            Op::Purge(upto) => {
                self.push(|out| record::put_purged(out, upto))?;
                self.state.purge(upto);
                self.batch.purges = true;
                Ok(())
            }
        }
    }

    fn entry(&mut self, ticket: u64, entry: &Entry) -> io::Result<()> {
        let location = self.push(|out| record::put_entry(out, entry))?;
        let index = entry.log_id.index;
        self.state.last = Some(Position { term: entry.log_id.leader_id.term, index });
        self.batch.entries.push((index, ticket, location));
        Ok(())
    }

    /// Tells `waiting` at the next flush; or now, that it failed.
    fn settle(&mut self, pushed: io::Result<()>, waiting: Waiting) -> io::Result<()> {
        match pushed {
            Ok(()) => {
                self.batch.waiting.push(waiting);
                Ok(())
            }
            Err(error) => {
                waiting.tell(Err(again(&error)));
                Err(error)
            }
        }
    }

    /// Puts what a batch begins with into the buffer: in a fresh segment the header and the state; then the mark.
    fn begin(&mut self) -> io::Result<()> {
        if self.synced.offset > 0 || !self.buffer.is_empty() {
            return self.mark(self.synced);
        }
        self.open_segment(self.synced)
    }

    fn open_segment(&mut self, synced: Place) -> io::Result<()> {
        self.buffer.extend_from_slice(&Header::new(&self.active, &self.identity).encode());
        let state = self.state;
        self.push(|out| record::put_state(out, &state))?;
        self.mark(synced)
    }

    fn mark(&mut self, synced: Place) -> io::Result<()> {
        self.push(|out| record::put_synced(out, synced))?;
        self.batch.mark = self.batch.mark.max(Some(synced));
        self.batch.records -= 1;
        Ok(())
    }

    /// Puts one record into the buffer; before that goes to the next segment when this one has no room for it.
    fn push(&mut self, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<Location> {
        let mut begin = record::open(&mut self.buffer);
        body(&mut self.buffer);
        if !self.fits() {
            let frame = self.buffer.split_off(begin);
            self.rotate()?;
            begin = self.buffer.len();
            self.buffer.extend_from_slice(&frame);
            if !self.fits() {
                let (bytes, segment) = (frame.len(), self.active.bytes);
                let what = format!("a record of {bytes} bytes does not fit a log segment of {segment} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
        }
        let offset = self.synced.offset + begin as u64;
        record::close(&mut self.buffer, begin, self.active.life, offset);
        self.batch.records += 1;
        Ok(Location {
            segment: self.active.seq,
            offset: u32::try_from(offset).expect("segments are small"),
            length: u32::try_from(self.buffer.len() - begin).expect("a frame fits its segment"),
        })
    }

    /// Whether the segment has room for the buffer and, behind it, the record that seals the segment.
    fn fits(&self) -> bool {
        self.synced.offset + (self.buffer.len() + SEALED_FRAME_BYTES) as u64 <= self.active.bytes
    }

    /// Seals the segment, makes all of it durable, and opens the next one. A sealed segment always has a next one.
    fn rotate(&mut self) -> io::Result<()> {
        let next = match self.shared.files.try_next() {
            Some(next) => next,
            None => {
                // That may take until the disk has room: those whose records are in the buffer need not wait for it.
                self.flush()?;
                self.shared.busy.begin(self.env.monotonic());
                let next = self.shared.files.wait_next();
                self.shared.busy.end();
                next?
            }
        };
        let begin = record::open(&mut self.buffer);
        record::put_sealed(&mut self.buffer);
        record::close(&mut self.buffer, begin, self.active.life, self.synced.offset + begin as u64);
        self.batch.records += 1;
        self.flush()?;

        // Not before: recovery relies on there never being two segments behind one that is not sealed.
        self.shared.files.order(next.seq + 1);
        let sealed = self.synced;
        self.active = Arc::new(next);
        self.synced = Place { segment: self.active.seq, offset: 0 };
        {
            let mut live = self.shared.live();
            live.segments.insert(self.active.seq, Arc::clone(&self.active));
            live.free_bytes = self.active.bytes;
        }
        self.open_segment(sealed)
    }

    /// Writes the buffer, makes it durable, and tells everybody.
    fn flush(&mut self) -> io::Result<()> {
        let end = self.synced.offset + self.buffer.len() as u64;
        // Whole pages, so that the operating system never has to read one to change a part of it.
        let padded = end.next_multiple_of(PAGE_BYTES).min(self.active.bytes);
        let bytes = usize::try_from(padded - self.synced.offset).expect("a segment fits memory");
        self.buffer.resize(bytes, 0);

        let began = self.env.monotonic();
        self.shared.busy.begin(began);
        let (file, path) = (&self.active.file, self.active.path.display());
        let named = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what} {path}: {error}"));
        file.write_all_at(&self.buffer, self.synced.offset).map_err(|error| named("write to", error))?;
        file.sync_data().map_err(|error| named("sync", error))?;
        self.shared.busy.end();
        self.observer.synced(self.env.monotonic().saturating_sub(began), bytes, self.batch.records);

        self.buffer.clear();
        self.synced.offset = end;
        self.publish();
        Ok(())
    }

    /// Makes known what has just become durable.
    fn publish(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.marked = self.marked.max(batch.mark.unwrap_or_default());
        self.unmarked = batch.records > 0;
        let shared = Arc::clone(&self.shared);
        let (retired, old_entries) = {
            let mut live = shared.live();
            live.queued_bytes -= batch.queued_bytes;
            live.free_bytes = self.active.bytes - self.synced.offset;
            let Live { span, cache, .. } = &mut *live;
            let new = batch.entries.first().map(|(index, ..)| *index);
            for (index, ticket, location) in batch.entries {
                if let Some(slot) = span.get_mut(index).filter(|slot| slot.standing == Standing::Queued(ticket)) {
                    slot.standing = Standing::Written(location);
                }
            }
            let old_entries = cache.shrink(span, new);
            (self.retire(&mut live), old_entries)
        };
        if !retired.is_empty() {
            shared.files.retire(retired);
        }
        if batch.purges {
            self.purge = Some(self.synced);
        }
        for waiting in batch.waiting {
            waiting.tell(Ok(()));
        }
        drop(old_entries); // not before: it takes a while
    }

    /// The segments without live entries, when a durable mark covers the purge that made them so.
    fn retire(&mut self, live: &mut Live) -> Vec<Arc<Segment>> {
        // A newer purge that is still queued has moved the entries' start already, but is not durable.
        if self.purge.is_none_or(|purge| purge > self.marked) || live.span.purged() != self.state.purged {
            return Vec::new();
        }
        self.purge = None;
        let keep = match live.span.front().map(|slot| slot.standing) {
            Some(Standing::Written(location)) => location.segment,
            Some(Standing::Queued(_)) | None => self.active.seq,
        };
        let kept = live.segments.split_off(&keep);
        std::mem::replace(&mut live.segments, kept).into_values().collect()
    }

    fn fail(mut self, left: VecDeque<Op>, error: &io::Error) {
        tracing::error!(%error, "the log has failed: this node can no longer promise anything");
        self.shared.poison(error);
        for waiting in std::mem::take(&mut self.batch.waiting) {
            waiting.tell(Err(again(error)));
        }
        for op in left {
            op.fail(again(error));
        }
    }
}
