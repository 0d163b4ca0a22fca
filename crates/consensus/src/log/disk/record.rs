//! The records of the log's stream, as bytes.
//!
//! A frame is `length: u32 LE`, `CRC-32C: u32 LE`, then `length` bytes: the kind, the format version, the content.
//! The CRC covers the [`Life`] of the segment, the frame's offset in it, and everything but itself. So neither a
//! leftover of the segment's former life, nor a frame copied to another place (inside a stored value, say), is
//! ever taken for a record.
//!
//! The numbers of the kinds, and the order of variants and fields of what is stored here, **are the format**.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};
use state::{command::Batch, ids::Position};

use super::segment::Identity;
use crate::types::{self, Entry, MemberId, Peer, Proposal, Vote};

/// Length and CRC.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// A frame of the kind [`Record::Sealed`].
pub(super) const SEALED_FRAME_BYTES: usize = FRAME_HEAD_BYTES + 2;
/// What follows the length and the CRC of a frame of the kind [`Record::Synced`].
const SYNCED_BODY_BYTES: usize = 2 + 16;

const VERSION: u8 = 1;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATED: u8 = 3;
const PURGED: u8 = 4;
const COMMITTED: u8 = 5;
const SYNCED: u8 = 6;
const STATE: u8 = 7;
const SEALED: u8 = 8;

/// A place in the log's stream of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The segment's sequence number.
    pub(super) segment: u64,
    /// The offset in it, in bytes.
    pub(super) offset: u64,
}

/// What the CRCs of a segment start from: the log's identity and the segment's sequence number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life(u32);

impl Life {
    /// The life of `segment` in the log of `identity`.
    pub(super) fn new(identity: &Identity, segment: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(identity.as_bytes()), &segment.to_le_bytes()))
    }

    fn crc(self, offset: u64, length: [u8; 4], body: &[u8]) -> u32 {
        let head = crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), &length);
        crc32c::crc32c_append(head, body)
    }
}

/// A vote as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredVote {
    term: u64,
    voted_for: MemberId,
    committed: bool,
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<StoredVote> for Vote {
    fn from(vote: StoredVote) -> Self {
        let leader_id = openraft::vote::leader_id_std::LeaderId { term: vote.term, voted_for: vote.voted_for };
        Vote { leader_id, committed: vote.committed }
    }
}

/// What is in force at a place of the stream: all that the removal of older segments must not lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The vote.
    pub(super) vote: Option<StoredVote>,
    /// The last purged entry.
    pub(super) purged: Option<Position>,
    /// The last entry that is known to be committed.
    pub(super) committed: Option<Position>,
    /// The last entry, or the purge point: what the last truncation, or the last append since, has left.
    pub(super) last: Option<Position>,
}

impl State {
    /// An entry was purged with all before it.
    pub(super) fn purge(&mut self, upto: Position) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            if self.last.is_none_or(|last| last.index <= upto.index) {
                self.last = Some(upto);
            }
        }
    }
}

/// One record of the stream.
#[derive(Debug, PartialEq)]
pub(super) enum Record<'a> {
    /// An entry, its payload still encoded.
    Entry(Position, Encoded<'a>),
    /// A vote.
    Vote(StoredVote),
    /// All entries behind this one were removed.
    Truncated(Option<Position>),
    /// All entries up to this one were removed.
    Purged(Position),
    /// All entries up to this one are committed.
    Committed(Option<Position>),
    /// All before this place was durable when this record was written.
    Synced(Place),
    /// What was in force when the segment began; always its first record.
    State(State),
    /// The segment ends here; the stream goes on in the next one.
    Sealed,
}

/// An entry's payload, checked for damage but not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Encoded<'a>(&'a [u8]);

/// A frame that is whole, but whose content this version cannot read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// The kind is none of ours.
    #[error("a record of the unknown kind {0}")]
    Kind(u8),
    /// A later version wrote it.
    #[error("a record of the unknown format version {0}")]
    Version(u8),
    /// The content ends early, goes on too long, or breaks a rule.
    #[error("a record of kind {kind} with unreadable content")]
    Content {
        /// The record's kind.
        kind: u8,
    },
}

#[derive(Serialize)]
enum PayloadRef<'a> {
    Blank,
    Normal(&'a Batch),
    Membership { configs: &'a [BTreeSet<MemberId>], peers: BTreeMap<&'a MemberId, &'a Peer> },
}

#[derive(Deserialize)]
enum Payload {
    Blank,
    Normal(Batch),
    Membership { configs: Vec<BTreeSet<MemberId>>, peers: BTreeMap<MemberId, Peer> },
}

/// Opens a frame at the end of `out`, and answers where it begins. [`close`] ends it.
pub(super) fn open(out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    begin
}

/// Ends the frame that begins at `begin` of `out` and goes to its end, and will lie at `offset` of its segment.
pub(super) fn close(out: &mut [u8], begin: usize, life: Life, offset: u64) {
    let (head, body) = out[begin..].split_at_mut(FRAME_HEAD_BYTES);
    let length = u32::try_from(body.len()).expect("a frame fits a segment, and a segment 32 bits").to_le_bytes();
    head[..4].copy_from_slice(&length);
    head[4..].copy_from_slice(&life.crc(offset, length, body).to_le_bytes());
}

/// Appends the body of an [`Record::Entry`].
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(&[ENTRY, VERSION]);
    out.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&entry.log_id.index.to_le_bytes());
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadRef::Blank,
        EntryPayload::Normal(proposal) => PayloadRef::Normal(&proposal.0),
        EntryPayload::Membership(membership) => {
            PayloadRef::Membership { configs: membership.get_joint_config(), peers: membership.nodes().collect() }
        }
    };
    put(out, &payload);
}

/// Appends the body of a [`Record::Vote`].
pub(super) fn put_vote(out: &mut Vec<u8>, vote: &StoredVote) {
    out.extend_from_slice(&[VOTE, VERSION]);
    put(out, vote);
}

/// Appends the body of a [`Record::Truncated`].
pub(super) fn put_truncated(out: &mut Vec<u8>, last: Option<Position>) {
    out.extend_from_slice(&[TRUNCATED, VERSION]);
    put(out, &last);
}

/// Appends the body of a [`Record::Purged`].
pub(super) fn put_purged(out: &mut Vec<u8>, upto: Position) {
    out.extend_from_slice(&[PURGED, VERSION]);
    put(out, &upto);
}

/// Appends the body of a [`Record::Committed`].
pub(super) fn put_committed(out: &mut Vec<u8>, upto: Option<Position>) {
    out.extend_from_slice(&[COMMITTED, VERSION]);
    put(out, &upto);
}

/// Appends the body of a [`Record::Synced`].
pub(super) fn put_synced(out: &mut Vec<u8>, place: Place) {
    out.extend_from_slice(&[SYNCED, VERSION]);
    out.extend_from_slice(&place.segment.to_le_bytes());
    out.extend_from_slice(&place.offset.to_le_bytes());
}

/// Appends the body of a [`Record::State`].
pub(super) fn put_state(out: &mut Vec<u8>, state: &State) {
    out.extend_from_slice(&[STATE, VERSION]);
    put(out, state);
}

/// Appends the body of a [`Record::Sealed`].
pub(super) fn put_sealed(out: &mut Vec<u8>) {
    out.extend_from_slice(&[SEALED, VERSION]);
}

fn put<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    postcard::to_io(value, out).expect("every stored type has an encoding, and memory takes it");
}

/// The frame at `at` of `bytes`, which lies at `offset` of its segment: its record and where it ends in `bytes`.
/// None when there is no whole, undamaged frame.
pub(super) fn parse(
    bytes: &[u8],
    at: usize,
    life: Life,
    offset: u64,
) -> Result<Option<(Record<'_>, usize)>, Malformed> {
    let Some((body, end)) = frame(bytes, at, life, offset) else { return Ok(None) };
    Ok(Some((record(body)?, end)))
}

/// The furthest place that a [`Record::Synced`] anywhere in the `bytes` of a segment at or after `from` names.
pub(super) fn furthest_synced(bytes: &[u8], from: usize, life: Life) -> Option<Place> {
    const SYNCED_LENGTH: [u8; 4] = (SYNCED_BODY_BYTES as u32).to_le_bytes();
    let mut furthest = None;
    for (at, window) in bytes.windows(FRAME_HEAD_BYTES + SYNCED_BODY_BYTES).enumerate().skip(from) {
        if window[..4] != SYNCED_LENGTH || window[FRAME_HEAD_BYTES] != SYNCED {
            continue;
        }
        if let Ok(Some((Record::Synced(place), _))) = parse(bytes, at, life, at as u64) {
            furthest = furthest.max(Some(place));
        }
    }
    furthest
}

fn frame(bytes: &[u8], at: usize, life: Life, offset: u64) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at.checked_add(FRAME_HEAD_BYTES)?)?;
    let (length, crc) = head.split_first_chunk::<4>()?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    let begin = at + FRAME_HEAD_BYTES;
    let end = begin.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let body = bytes.get(begin..end)?;
    (body.len() >= 2 && life.crc(offset, *length, body) == crc).then_some((body, end))
}

fn record(body: &[u8]) -> Result<Record<'_>, Malformed> {
    let [kind, version, content @ ..] = body else { return Err(Malformed::Content { kind: 0 }) };
    let kind = *kind;
    if *version != VERSION {
        return Err(Malformed::Version(*version));
    }
    let read = Content { kind, bytes: content };
    match kind {
        ENTRY => {
            let (term, rest) = read.u64()?;
            let (index, rest) = rest.u64()?;
            Ok(Record::Entry(Position { term, index }, Encoded(rest.bytes)))
        }
        VOTE => Ok(Record::Vote(read.all()?)),
        TRUNCATED => Ok(Record::Truncated(read.all()?)),
        PURGED => Ok(Record::Purged(read.all()?)),
        COMMITTED => Ok(Record::Committed(read.all()?)),
        SYNCED => {
            let (segment, rest) = read.u64()?;
            let (offset, rest) = rest.u64()?;
            rest.empty(Record::Synced(Place { segment, offset }))
        }
        STATE => Ok(Record::State(read.all()?)),
        SEALED => read.empty(Record::Sealed),
        unknown => Err(Malformed::Kind(unknown)),
    }
}

impl Encoded<'_> {
    /// The entry at `position` with this payload.
    pub(super) fn decode(self, position: Position) -> Result<Entry, Malformed> {
        let payload = match (Content { kind: ENTRY, bytes: self.0 }).all()? {
            Payload::Blank => EntryPayload::Blank,
            Payload::Normal(batch) => EntryPayload::Normal(Proposal(batch.into())),
            Payload::Membership { configs, peers } => {
                let membership = Membership::new(configs, peers).map_err(|_| Malformed::Content { kind: ENTRY })?;
                EntryPayload::Membership(membership)
            }
        };
        Ok(Entry { log_id: types::log_id(position), payload })
    }
}

/// What is left of a record's content to be read.
struct Content<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Content<'a> {
    fn malformed(&self) -> Malformed {
        Malformed::Content { kind: self.kind }
    }

    fn u64(&self) -> Result<(u64, Content<'a>), Malformed> {
        let (number, bytes) = self.bytes.split_first_chunk::<8>().ok_or_else(|| self.malformed())?;
        Ok((u64::from_le_bytes(*number), Content { kind: self.kind, bytes }))
    }

    fn all<T: Deserialize<'a>>(&self) -> Result<T, Malformed> {
        match postcard::take_from_bytes(self.bytes) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(self.malformed()),
        }
    }

    fn empty(&self, record: Record<'a>) -> Result<Record<'a>, Malformed> {
        if self.bytes.is_empty() { Ok(record) } else { Err(self.malformed()) }
    }
}

#[cfg(any(test, feature = "testing"))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests;
