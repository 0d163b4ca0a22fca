//! The harness of what members say to each other; see `state::fuzz`.
//!
//! Any bytes, taken as any kind of message, are refused, or are one whose encoding is the same message again and no longer
//! than they were. Nothing follows a message.

use std::sync::Arc;

use openraft::raft::{AppendEntriesRequest, VoteRequest, VoteResponse};
use serde::{Serialize, de::DeserializeOwned};
use state::{
    command::{Batch, Command, Condition, Data, Write},
    fuzz::Target,
    ids::{ApiKeyId, Position, ScopeId},
    kv::{Key, Value},
};

use super::message::{
    Answer, Append, Appended, Forwarded, Opening, Question, SnapshotAnswer, SnapshotFrame, SnapshotOpening, VERSION,
    decode, encode,
};
use crate::types::{self, Entry, MemberId, Proposal, SnapshotMeta, Vote};

/// See the module.
pub(crate) const MESSAGE: Target = Target { name: "message", check, seeds };

fn check(input: &[u8]) {
    check_as::<Question>(input);
    check_as::<Answer>(input);
    check_as::<Opening>(input);
    check_as::<Append>(input);
    check_as::<Appended>(input);
    check_as::<SnapshotFrame>(input);
    check_as::<SnapshotAnswer>(input);
}

fn check_as<M: Serialize + DeserializeOwned>(input: &[u8]) {
    let Ok(message) = decode::<M>(input) else { return };
    let encoded = encode(&message);
    assert!(encoded.len() <= input.len(), "the encoding is longer than what was decoded");
    let again = decode::<M>(&encoded).unwrap_or_else(|refusal| panic!("what was encoded is refused: {}", refusal.0));
    assert_eq!(encode(&again), encoded, "a message is another one when it is read again");
    let followed = [input, &[0]].concat();
    assert!(decode::<M>(&followed).is_err(), "something follows a message, and it is taken all the same");
}

fn seeds() -> Vec<Vec<u8>> {
    let vote = Vote {
        leader_id: openraft::vote::leader_id_std::LeaderId { term: 3, voted_for: MemberId::from(1) },
        committed: true,
    };
    let log_id = types::log_id(Position { term: 3, index: 300 });
    let write = Write::Put {
        key: Key::new("key", 10).expect("it is short"),
        value: Value::new("value", 10).expect("it is short"),
        condition: Condition::Absent,
    };
    let data =
        Data { scope: ScopeId::ROOT, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes: vec![write] };
    let command = Command::Data(data);
    let batch = Batch { time_unix_ms: 5, commands: vec![command.clone()] };
    let entry = Entry { log_id, payload: openraft::EntryPayload::Normal(Proposal(Arc::new(batch))) };
    let append = || Append {
        request: AppendEntriesRequest {
            vote,
            prev_log_id: Some(log_id),
            entries: vec![entry.clone()],
            leader_commit: Some(log_id),
        },
        quorum_age_ms: Some(40),
    };
    let meta = SnapshotMeta { last_log_id: Some(log_id), ..SnapshotMeta::default() };
    // 2^60 commands, none of which is there.
    let long = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    [
        encode(&Question::Vote(VoteRequest::new(vote, Some(log_id)))),
        encode(&Question::PreVote(VoteRequest::new(vote, None))),
        encode(&Question::Append(append())),
        encode(&Question::Propose(Forwarded { wait_ms: vec![1_000], commands: vec![command] })),
        encode(&Question::ReadIndex),
        encode(&Answer::Vote(VoteResponse::new(vote, Some(log_id), true))),
        encode(&Answer::ReadIndex(Ok(Some(log_id)))),
        encode(&Answer::Stopped),
        encode(&Opening::Append),
        encode(&Opening::Snapshot(SnapshotOpening { vote, meta })),
        encode(&append()),
        encode(&Appended::Matching(Some(log_id))),
        encode(&Appended::Conflict(log_id)),
        encode(&Appended::HigherVote(vote)),
        encode(&SnapshotFrame::Piece(b"bytes".to_vec())),
        encode(&SnapshotFrame::End),
        encode(&SnapshotAnswer::Have(300)),
        encode(&SnapshotAnswer::Failed("a reason".to_owned())),
    ]
    .iter()
    .map(|seed| seed.to_vec())
    .chain([[&[VERSION, 4][..], &long].concat(), vec![]])
    .collect()
}
