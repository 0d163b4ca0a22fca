//! What a log's files say when it is opened.
//!
//! 1. The segments are read in order; every record changes the picture: entries, truncations, purges, votes.
//! 2. Reading ends at the first frame that is not whole and undamaged. That is either the **tail**, torn by a crash
//!    in the middle of a batch that nobody was promised, or **damage** to what was once durable.
//! 3. Which of the two, only what lies *behind* it can tell: every batch opens with a mark that says up to where
//!    the log was durable when it was written, and a segment begins only when all before it is durable. A mark
//!    behind the bad frame that reaches past it is proof of damage: the log is refused. Without one it is the tail.
//!    The witness (`witness`) says the same from another file, where damage to the last sectors of the log cannot reach.
//! 4. The tail is cut: overwritten with zeros, so that a frame of the torn batch that did reach the disk can never
//!    be taken for one of a later batch, and all that was read is synced, since only the operating system may have it.
//!
//! What this cannot see: damage to the very last batch before a crash, when the mark that follows it (the next
//! batch's, or the idle one some milliseconds later) did not reach the disk, or was lost with the batch before the witness
//! told of it. It looks like a torn batch, and is cut.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use state::ids::Position;
use storage::fs::Disk;

use super::{
    Error, FIRST_SEGMENT, SEGMENT_BYTES_MAX,
    record::{self, Life, Malformed, Place, Record, State},
    segment::{self, HEADER_BYTES, Header, Identity, Name, Segment},
    shared::{Location, Slot, Standing},
    witness,
};
use crate::log::span::Span;

/// The log as its files tell it.
#[derive(Debug)]
pub(super) struct Recovered {
    /// What is in force at the end.
    pub(super) state: State,
    /// The entries there are.
    pub(super) span: Span<Slot>,
    /// The segments that hold them, by number; the last one is written to.
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    /// Where in the last segment to write: 0 when it has not begun yet.
    pub(super) offset: u64,
    /// The segment that was prepared to be the next.
    pub(super) next: Option<Segment>,
}

/// Reads the log in `dir`, cuts its torn tail, and makes durable what is left. None when there is no log yet.
pub(super) fn recover(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Option<Recovered>, Error> {
    let names = disk.list(dir).map_err(|source| Error::io("list", dir, source))?;
    let mut segments = Vec::new();
    for name in names.iter().filter_map(|name| Name::parse(name)) {
        match name {
            Name::Segment(seq) => segments.push(open(disk, dir, identity, name, seq)?),
            // A crash in the middle of a rename may have left a spare that is also a segment, so none is used again.
            Name::Spare(_) | Name::Unfinished(_) => {
                let path = name.path(dir);
                disk.remove(&path).map_err(|source| Error::io("remove", &path, source))?;
            }
        }
    }
    let witnessed = witness::read(disk, dir, &names, identity)?;
    let Some(first) = segments.first() else {
        return match witnessed {
            None => Ok(None),
            Some(place) => Err(Error::Missing { path: Name::Segment(place.segment).path(dir) }),
        };
    };
    for (expected, segment) in (first.seq..).zip(&segments) {
        if segment.seq != expected {
            return Err(Error::Missing { path: Name::Segment(expected).path(dir) });
        }
    }
    let (replay, tail) = replay(dir, identity, &segments)?;
    // First: a purge behind the damage would seem to be missing.
    check_tail(&segments, &tail, identity, witnessed)?;
    let (state, span) = replay.finish(first)?;
    make_durable(disk, dir, &segments, &tail)?;

    let next = segments.split_off(tail.at + 1).pop();
    let segments = segments.into_iter().map(|segment| (segment.seq, Arc::new(segment))).collect();
    Ok(Some(Recovered { state, span, segments, offset: tail.offset as u64, next }))
}

fn open(disk: &dyn Disk, dir: &Path, identity: &Identity, name: Name, seq: u64) -> Result<Segment, Error> {
    let path = name.path(dir);
    let opened = disk.open(&path).and_then(|file| Ok((file.len()?, file)));
    let (bytes, file) = opened.map_err(|source| Error::io("open", &path, source))?;
    Ok(Segment { seq, life: Life::new(identity, seq), bytes, path, file })
}

fn read(segment: &Segment) -> Result<Vec<u8>, Error> {
    if segment.bytes > SEGMENT_BYTES_MAX {
        let detail = format!("it has {} bytes, more than a segment may have", segment.bytes);
        return Err(Error::corrupt(&segment.path, SEGMENT_BYTES_MAX, detail));
    }
    let mut content = vec![0; usize::try_from(segment.bytes).expect("checked against the bound")];
    segment.file.read_exact_at(&mut content, 0).map_err(|source| Error::io("read", &segment.path, source))?;
    Ok(content)
}

/// Where the records end.
struct Tail {
    /// In which of the segments.
    at: usize,
    /// All bytes of that segment.
    content: Vec<u8>,
    /// Where in it.
    offset: usize,
}

/// Reads records, one segment after another, until they end.
fn replay(dir: &Path, identity: &Identity, segments: &[Segment]) -> Result<(Replay, Tail), Error> {
    let mut replay = Replay { state: None, span: Span::after(None) };
    for (at, segment) in segments.iter().enumerate() {
        let content = read(segment)?;
        match replay.segment(segment, &content, identity)? {
            End::Sealed => {}
            End::At(offset) => return Ok((replay, Tail { at, content, offset })),
        }
    }
    let next = segments[0].seq + segments.len() as u64;
    Err(Error::Missing { path: Name::Segment(next).path(dir) })
}

/// Refuses a log whose records end at `tail`, when it was once durable past that.
fn check_tail(segments: &[Segment], tail: &Tail, identity: &Identity, witnessed: Option<Place>) -> Result<(), Error> {
    let ended = &segments[tail.at];
    let end = Place { segment: ended.seq, offset: tail.offset as u64 };
    let refuse = |proof: Place| {
        let detail = format!(
            "the records end here, but the log was once durable up to offset {} of segment {:016x}",
            proof.offset, proof.segment
        );
        Err(Error::corrupt(&ended.path, end.offset, detail))
    };
    let mut proof = witnessed.max(record::furthest_synced(&tail.content, tail.offset, ended.life));
    match &segments[tail.at + 1..] {
        [] => {}
        [next] => {
            let content = read(next)?;
            let begun = begins(next, &content, identity)?.then_some(Place { segment: next.seq, offset: 0 });
            proof = proof.max(begun).max(record::furthest_synced(&content, 0, next.life));
        }
        // A segment is prepared only while the one before it is in use.
        [_, .., newest] => proof = proof.max(Some(Place { segment: newest.seq, offset: 0 })),
    }
    if let Some(proof) = proof.filter(|proof| *proof > end) {
        return refuse(proof);
    }
    // A segment is removed only when a later one is in use.
    if tail.at == 0 && tail.offset == 0 && ended.seq > FIRST_SEGMENT {
        return Err(Error::corrupt(&ended.path, 0, "the oldest segment has no whole header and state".to_owned()));
    }
    Ok(())
}

/// Whether the segment has begun its present life. Fails for a segment of another log or of a later version, and for one
/// that was cut.
fn begins(segment: &Segment, content: &[u8], identity: &Identity) -> Result<bool, Error> {
    let Some(header) = Header::parse(content) else {
        if segment::is_size(segment.bytes) {
            return Ok(false);
        }
        let detail = format!("the file has {} bytes: a segment is made whole, so it was cut", segment.bytes);
        return Err(Error::corrupt(&segment.path, segment.bytes, detail));
    };
    if header.identity != *identity {
        let reason = "its header names another log: the files of two nodes or clusters are mixed up".to_owned();
        return Err(Error::Foreign { path: segment.path.clone(), reason });
    }
    if !header.is_readable() {
        return Err(Error::Version { path: segment.path.clone(), version: header.version });
    }
    if header.seq > segment.seq {
        let reason = format!("its header says segment {:016x}: it was renamed", header.seq);
        return Err(Error::Foreign { path: segment.path.clone(), reason });
    }
    // A lower number is the former life of a segment that was to be used again.
    if header.seq == segment.seq && header.bytes != segment.bytes {
        let detail = format!("the file has {} bytes, its header says {}", segment.bytes, header.bytes);
        return Err(Error::corrupt(&segment.path, segment.bytes.min(header.bytes), detail));
    }
    Ok(header.seq == segment.seq)
}

fn make_durable(disk: &dyn Disk, dir: &Path, segments: &[Segment], tail: &Tail) -> Result<(), Error> {
    let active = &segments[tail.at];
    zero_from(active, &tail.content, tail.offset)
        .map_err(|source| Error::io("cut the torn tail of", &active.path, source))?;
    // The one before may have been sealed just before the crash, and its sync not have returned.
    for segment in &segments[tail.at.saturating_sub(1)..=tail.at] {
        segment.file.sync_data().map_err(|source| Error::io("sync", &segment.path, source))?;
    }
    disk.sync_dir(dir).map_err(|source| Error::io("sync", dir, source))
}

fn zero_from(segment: &Segment, content: &[u8], offset: usize) -> io::Result<()> {
    const PIECE_BYTES: usize = 65_536;
    let mut at = offset;
    for piece in content[offset..].chunks(PIECE_BYTES) {
        if piece.iter().any(|byte| *byte != 0) {
            segment.file.write_all_at(&vec![0; piece.len()], at as u64)?;
        }
        at += piece.len();
    }
    Ok(())
}

/// Where the records of a segment end.
enum End {
    Sealed,
    At(usize),
}

/// The picture while records change it.
struct Replay {
    /// None before the first segment's state.
    state: Option<State>,
    /// Behind the first segment's last entry at its start, even where its purge point is lower: what lies between
    /// is missing, and must turn out to be purged or truncated.
    span: Span<Slot>,
}

impl Replay {
    fn segment(&mut self, segment: &Segment, content: &[u8], identity: &Identity) -> Result<End, Error> {
        if !begins(segment, content, identity)? {
            return Ok(End::At(0));
        }
        let mut at = HEADER_BYTES;
        loop {
            let parsed = record::parse(content, at, segment.life, at as u64);
            let parsed = parsed.map_err(|error| unreadable(segment, at as u64, &error))?;
            let Some((record, end)) = parsed else {
                // Without its state a segment has not begun: header and state are written again.
                return Ok(End::At(if at == HEADER_BYTES { 0 } else { at }));
            };
            if record == Record::Sealed {
                return Ok(End::Sealed);
            }
            let location = Location { segment: segment.seq, offset: at as u32, length: (end - at) as u32 };
            let opens = at == HEADER_BYTES;
            self.record(record, location, opens).map_err(|detail| Error::corrupt(&segment.path, at as u64, detail))?;
            at = end;
        }
    }

    fn record(&mut self, record: Record<'_>, location: Location, opens: bool) -> Result<(), String> {
        if let Record::State(state) = record {
            return self.opening(state, opens);
        }
        let state = self.state.as_mut().filter(|_| !opens).ok_or("the segment does not open with its state")?;
        match record {
            Record::Entry(position, _) => {
                let slot = Slot { term: position.term, standing: Standing::Written(location) };
                self.span.push(position.index, slot).map_err(|hole| hole.to_string())?;
                state.last = Some(position);
            }
            Record::Vote(vote) => state.vote = Some(vote),
            Record::Truncated(last) => {
                if last.map(|last| last.index) < self.span.purged().map(|purged| purged.index) {
                    self.span = Span::after(last);
                } else {
                    self.span.truncate_after(last.map(|last| last.index));
                }
                state.last = last;
            }
            Record::Purged(upto) => {
                self.span.purge(upto);
                state.purge(upto);
            }
            Record::Committed(upto) => state.committed = upto,
            Record::Synced(_) | Record::State(_) | Record::Sealed => {}
        }
        if self.span.last() == state.last { Ok(()) } else { Err("the entries do not add up".to_owned()) }
    }

    fn opening(&mut self, opening: State, opens: bool) -> Result<(), String> {
        match &self.state {
            _ if !opens => Err("a second state in one segment".to_owned()),
            None => {
                self.span = Span::after(opening.last);
                self.state = Some(opening);
                Ok(())
            }
            Some(state) if *state == opening => Ok(()),
            Some(_) => Err("the segment does not go on where the one before it ended".to_owned()),
        }
    }

    /// The picture, when nothing that it needs was in segments before the first.
    fn finish(self, first: &Segment) -> Result<(State, Span<Slot>), Error> {
        let state = self.state.unwrap_or_default();
        if self.span.purged() == state.purged {
            return Ok((state, self.span));
        }
        let show =
            |position: Option<Position>| position.map_or("none".to_owned(), |position| position.index.to_string());
        let detail = format!(
            "segments before it are missing: the log begins behind entry {}, but is purged only up to {}",
            show(self.span.purged()),
            show(state.purged)
        );
        Err(Error::corrupt(&first.path, 0, detail))
    }
}

/// A whole frame that cannot be read is a later version's, or damaged.
fn unreadable(segment: &Segment, offset: u64, error: &Malformed) -> Error {
    match error {
        Malformed::Version(version) => Error::RecordVersion { path: segment.path.clone(), offset, version: *version },
        Malformed::Kind(_) | Malformed::Content { .. } => Error::corrupt(&segment.path, offset, error.to_string()),
    }
}
