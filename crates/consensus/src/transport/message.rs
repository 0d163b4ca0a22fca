//! What members of one group say to each other.
//!
//! Each message is a version byte and a postcard encoding. The order of variants and fields **is the format**: new ones
//! go to the end. A message of a version that this program does not know is refused with both numbers, and so is one
//! that does not decode.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use state::{command::Command, outcome::Outcome};

use crate::{
    error::Error,
    transport::wire::Refusal,
    types::{LogId, TypeConfig},
};

/// The version of all messages between members.
pub const VERSION: u8 = 1;

/// A question that has one answer.
#[derive(Serialize, Deserialize)]
pub(crate) enum Question {
    /// Raft's request for a vote.
    Vote(VoteRequest<TypeConfig>),
    /// Would you grant this vote? Changes nothing.
    PreVote(VoteRequest<TypeConfig>),
    /// Entries, or a heartbeat, outside of a stream.
    Append(Append),
    /// Take over the leadership.
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// Commands that a follower was given, for the leader to propose. Never passed on again.
    Propose(Forwarded),
    /// Up to where must a linearizable read that begins now have applied?
    ReadIndex,
}

/// Whether a question does nothing more when it is asked a second time. All are so but those that carry commands: of these
/// each is sent once, and never again when its answer is missing.
pub fn is_idempotent(question: &[u8]) -> bool {
    matches!(decode::<Question>(question), Ok(question) if !matches!(question, Question::Propose(_)))
}

/// Commands for the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct Forwarded {
    /// How long the caller of each still waits, in milliseconds.
    pub(crate) wait_ms: Vec<u64>,
    /// The commands, each answered on its own.
    pub(crate) commands: Vec<Command>,
}

/// The answer to a [`Question`], variant by variant.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To [`Question::Vote`] and [`Question::PreVote`].
    Vote(VoteResponse<TypeConfig>),
    /// To [`Question::Append`].
    Appended(AppendResponse),
    /// To [`Question::Transfer`]: taken, or why not.
    Transfer(TransferLeaderResponse<TypeConfig>),
    /// To [`Question::Propose`]: one a command, in order.
    Proposed(Vec<Result<Outcome, Error>>),
    /// To [`Question::ReadIndex`]; none when nothing was ever committed.
    ReadIndex(Result<Option<LogId>, Error>),
    /// The group's core has stopped.
    Stopped,
}

/// The first frame of a stream says which of the two it is.
#[derive(Serialize, Deserialize)]
pub(crate) enum Opening {
    /// [`Append`] frames follow, each answered by an [`Appended`].
    Append,
    /// [`SnapshotFrame`]s follow once the receiver has answered; it speaks in [`SnapshotAnswer`]s.
    Snapshot(SnapshotOpening),
}

/// One append of the stream.
#[derive(Serialize, Deserialize)]
pub(crate) struct Append {
    /// openraft's request.
    pub(crate) request: AppendEntriesRequest<TypeConfig>,
    /// How long ago, at sending, a quorum last acknowledged the leader, in milliseconds; none when it never did. What
    /// a follower knows of its leader's hold on the group (`ARCHITECTURE.md`, the volatile group, rule 6).
    pub(crate) quorum_age_ms: Option<u64>,
}

/// The answer to an [`Append`].
#[derive(Serialize, Deserialize)]
pub(crate) enum Appended {
    /// The log matches up to here.
    Matching(Option<LogId>),
    /// The log does not match at this entry.
    Conflict(LogId),
    /// The sender has been deposed.
    HigherVote(crate::types::Vote),
    /// The group's core has stopped.
    Stopped,
}

impl From<Result<Option<LogId>, StreamAppendError<TypeConfig>>> for Appended {
    fn from(result: Result<Option<LogId>, StreamAppendError<TypeConfig>>) -> Self {
        match result {
            Ok(matching) => Self::Matching(matching),
            Err(StreamAppendError::Conflict(log_id)) => Self::Conflict(log_id),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote),
        }
    }
}

/// What the stream of a snapshot begins with.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotOpening {
    /// The leader's vote.
    pub(crate) vote: crate::types::Vote,
    /// What the snapshot covers.
    pub(crate) meta: crate::types::SnapshotMeta,
}

/// A part of a snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) enum SnapshotFrame {
    /// The bytes that come next.
    Piece(#[serde(with = "serde_bytes")] Vec<u8>),
    /// That was all of it.
    End,
}

/// What the receiver of a snapshot says.
#[derive(Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    /// So many bytes of it have arrived before: go on behind them.
    Have(u64),
    /// It is installed, or not wanted: what openraft says.
    Done(SnapshotResponse<TypeConfig>),
    /// It cannot be taken now, with the reason for a log.
    Failed(String),
}

/// openraft's answer to an append outside of a stream.
pub(crate) type AppendResponse = AppendEntriesResponse<TypeConfig>;

/// A message as bytes.
pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(message, vec![VERSION]).expect("messages are plain data: encoding cannot fail");
    Bytes::from(bytes)
}

/// A message from bytes.
pub(crate) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, Refusal> {
    match bytes.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok((_, rest)) => {
                Err(Refusal(format!("a peer's message cannot be decoded: {} bytes follow it", rest.len())))
            }
            Err(error) => Err(Refusal(format!("a peer's message cannot be decoded: {error}"))),
        },
        Some((version, _)) => {
            Err(Refusal(format!("a peer's message has version {version}; this program speaks version {VERSION}")))
        }
        None => Err(Refusal("a peer's message is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        match decode::<Question>(bytes) {
            Err(Refusal(reason)) => reason,
            Ok(_) => panic!("it was decoded"),
        }
    }

    #[test]
    fn a_message_of_another_version_is_refused_with_both_numbers() {
        let mut bytes = encode(&Question::ReadIndex).to_vec();
        assert!(matches!(decode(&bytes), Ok(Question::ReadIndex)));
        bytes[0] = VERSION + 1;
        let reason = refusal(&bytes);
        assert!(reason.contains("version 2") && reason.contains("version 1"), "{reason}");
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        assert!(refusal(&[]).contains("empty"));
        // A variant of a later program, and a message that breaks off.
        assert!(refusal(&[VERSION, 99]).contains("cannot be decoded"));
        let whole = encode(&Question::Propose(Forwarded { wait_ms: vec![1_000], commands: Vec::new() }));
        assert!(refusal(&whole[..whole.len() - 1]).contains("cannot be decoded"));
        assert!(refusal(&[&whole[..], &[0]].concat()).contains("1 bytes follow it"));
    }
}
