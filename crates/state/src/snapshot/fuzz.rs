//! The harness of snapshots on their way in; see `crate::fuzz`.
//!
//! The input is what a sender would send, but for the checksums, which are put right: each frame is a kind, a length of two
//! bytes, and so many bytes of body. So damage gets past the frames, into rows and their order, counts and hashes. Then the
//! same input is taken as it is. Either is refused, with the machine as it was; or it is installed, and exported again it is
//! the same state. However it is cut into pieces, the answer is the same.

use std::sync::Arc;

use storage::MemoryEngine;
use uuid::Uuid;

use super::{CHECKSUM_BYTES, KIND_BYTES, LENGTH_BYTES, checksum};
use crate::{
    apply::{Payload, StateMachine},
    command::{Admin, Batch, Command, Condition, Data, Write},
    fuzz::{Taker, Target},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, Position, ScopeId},
    keys::Limits,
    kv::{Key, Value},
};

/// See the module.
pub const SNAPSHOT: Target = Target { name: "snapshot", check, seeds };

type Machine = StateMachine<MemoryEngine>;

fn check(input: &[u8]) {
    receive(input);
    receive(&framed(input));
}

fn framed(input: &[u8]) -> Vec<u8> {
    let mut taker = Taker(input);
    let mut out = Vec::new();
    let mut number = 0;
    while !taker.0.is_empty() {
        let kind = taker.byte();
        let count = usize::from(u16::from_le_bytes(taker.array()));
        let body = taker.bytes(count);
        let begin = out.len();
        out.extend_from_slice(&u32::try_from(body.len()).expect("it is short").to_le_bytes());
        out.push(kind);
        out.extend_from_slice(body);
        let sum = checksum(number, &out[begin..]);
        out.extend_from_slice(&sum);
        number += 1;
    }
    out
}

fn receive(bytes: &[u8]) {
    for keyspace in [Keyspace::Values, Keyspace::Cache] {
        let whole = super::check(keyspace, std::iter::once(Ok(bytes.to_vec())));
        let mut machine = filled(keyspace);
        let before = machine.applied().clone();
        let installed = machine.install(bytes.chunks(7).map(|piece| Ok(piece.to_vec())));
        assert_eq!(whole.is_ok(), installed.is_ok(), "{whole:?}, but in pieces {installed:?}");
        if installed.is_err() {
            assert_eq!(machine.applied(), &before, "a refused snapshot has changed something");
            let recount = machine.reader().recount().expect("the books balance as before");
            assert_eq!(recount.state_hash, before.state_hash);
            continue;
        }
        let mut again = filled(keyspace);
        again.install(machine.reader().export().map(|frame| frame.map_err(std::io::Error::other))).expect("it is one");
        assert_eq!(again.applied(), machine.applied());
    }
}

fn filled(keyspace: Keyspace) -> Machine {
    let mut machine = StateMachine::open(Arc::new(MemoryEngine::new()), keyspace).expect("an empty engine is taken");
    let put = |name: &str| Write::Put {
        key: Key::new(name, 64).expect("it is short"),
        value: Value::new("value", 64).expect("it is short"),
        condition: Condition::Always,
    };
    let data = |scope, api_key| {
        let writes = ["a", "b", "long key"].map(put).to_vec();
        Command::Data(Data { scope, api_key, request: None, quota_bytes: None, writes })
    };
    let (id, scope) = (ApiKeyId(Uuid::from_bytes([1; 16])), ScopeId(Uuid::from_bytes([2; 16])));
    let limits = Limits { bytes_in_memory: 100, bytes_on_disk: 100, rate_per_second_data_limit: 5 };
    let create = Admin::CreateKey {
        id,
        scope,
        hash: ApiKeyHash([3; 32]),
        name: "name".to_owned(),
        limits,
        expires_at_unix_ms: None,
    };
    let commands = vec![data(ScopeId::ROOT, ApiKeyId::ROOT), Command::Admin(create), data(scope, id)];
    let batch = Batch { time_unix_ms: 5, commands };
    let mut applying = machine.begin();
    applying.apply(Position { term: 1, index: 1 }, Payload::Batch(&batch)).expect("it is no fault");
    applying.commit().expect("memory takes it");
    machine
}

/// A snapshot as [`framed`] reads it.
fn unframed(frames: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let body = &frame[LENGTH_BYTES + KIND_BYTES..frame.len() - CHECKSUM_BYTES];
        out.push(frame[LENGTH_BYTES]);
        out.extend_from_slice(&u16::try_from(body.len()).expect("it is short").to_le_bytes());
        out.extend_from_slice(body);
    }
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for keyspace in [Keyspace::Values, Keyspace::Cache] {
        let export = || filled(keyspace).reader().export().map(|frame| frame.expect("memory is read"));
        let empty = StateMachine::open(Arc::new(MemoryEngine::new()), keyspace).expect("an empty engine is taken");
        seeds.push(unframed(export()));
        seeds.push(unframed(empty.reader().export().map(|frame| frame.expect("memory is read"))));
        seeds.push(export().collect::<Vec<_>>().concat());
    }
    // A frame that claims 4 GiB.
    seeds.push(vec![0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0]);
    for seed in &seeds[..2] {
        assert!(super::check(Keyspace::Values, std::iter::once(Ok(framed(seed)))).is_ok(), "a seed is no snapshot");
    }
    seeds
}
