//! Batches of commands: what the log and the peers bring.
//!
//! Any bytes are refused, or are a batch whose encoding is the same batch again and no longer than they were. Any batch can
//! be applied to either group, whatever it says: it is decided, and the books balance behind it.

use std::sync::Arc;

use storage::MemoryEngine;
use uuid::Uuid;

use super::Target;
use crate::{
    apply::{Payload, StateMachine},
    command::{Admin, Admitted, Batch, Cleanup, Command, Condition, Data, Fence, KeyRef, Registry, Write},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, NodeId, Position, ScopeId},
    keys::{Limits, LimitsPatch},
    kv::{Key, Value},
};

/// See the module.
pub const COMMAND: Target = Target { name: "command", check, seeds };

fn check(input: &[u8]) {
    let Ok((batch, rest)) = postcard::take_from_bytes::<Batch>(input) else { return };
    let taken = input.len() - rest.len();
    let encoded = encode(&batch);
    assert!(encoded.len() <= taken, "the encoding is longer than what was decoded");
    let again: Batch = postcard::from_bytes(&encoded).expect("what was encoded is decoded");
    assert_eq!(again, batch);
    for keyspace in [Keyspace::Values, Keyspace::Cache] {
        apply(keyspace, &batch);
    }
}

/// Twice, so that the second time finds what the first has left.
fn apply(keyspace: Keyspace, batch: &Batch) {
    let mut machine = StateMachine::open(Arc::new(MemoryEngine::new()), keyspace).expect("an empty engine is taken");
    for index in 0..2 {
        let mut applying = machine.begin();
        let outcomes = applying.apply(Position { term: 1, index }, Payload::Batch(batch)).expect("it is no fault");
        assert_eq!(outcomes.len(), batch.commands.len());
        applying.commit().expect("memory takes it");
        let recount = machine.reader().recount().expect("every account is what its rows add up to");
        assert_eq!(recount.state_hash, machine.applied().state_hash);
        assert_eq!(recount.totals, machine.applied().totals);
    }
}

fn encode(batch: &Batch) -> Vec<u8> {
    postcard::to_stdvec(batch).expect("a batch is plain data")
}

fn seeds() -> Vec<Vec<u8>> {
    let id = |byte| Uuid::from_bytes([byte; 16]);
    let key = |text: &str| Key::new(text, 64).expect("it is short");
    let value = |text: &str| Value::new(text, 64).expect("it is short");
    let (entity, alias, scope) = (ApiKeyId(id(1)), ApiKeyId(id(2)), ScopeId(id(3)));
    let limits = Limits { bytes_in_memory: 100, bytes_on_disk: 100, rate_per_second_data_limit: 5 };
    let create = Command::Admin(Admin::CreateKey {
        id: entity,
        scope,
        hash: ApiKeyHash([4; 32]),
        name: "a name".to_owned(),
        limits,
        expires_at_unix_ms: Some(7),
    });
    let put = |name: &str, condition| Write::Put { key: key(name), value: value("17"), condition };
    let writes = vec![
        put("a", Condition::Always),
        put("b", Condition::Absent),
        put("b", Condition::ValueIs(value("17"))),
        put("a", Condition::RevisionIs(1)),
        Write::Bump { key: key("a"), delta: -5 },
        Write::Delete { key: key("b"), condition: Condition::Always },
    ];
    let data = |scope, api_key, writes: &[Write]| Data {
        scope,
        api_key,
        request: None,
        quota_bytes: Some(50),
        writes: writes.to_vec(),
    };
    let root = data(ScopeId::ROOT, ApiKeyId::ROOT, &writes);
    let own = data(scope, entity, &writes);
    let batches = [
        vec![],
        vec![Command::Data(root.clone())],
        vec![create.clone(), Command::Data(own.clone())],
        vec![
            create.clone(),
            Command::Admin(Admin::CreateAlias { owner: entity, id: alias, hash: ApiKeyHash([5; 32]) }),
            Command::Data(data(scope, alias, &writes[..1])),
            Command::Admin(Admin::SetLimits(KeyRef::Id(entity), LimitsPatch::default())),
            Command::Admin(Admin::DeleteAlias { owner: entity, alias: KeyRef::Hash(ApiKeyHash([5; 32])) }),
        ],
        vec![
            create,
            Command::Data(own.clone()),
            Command::Admin(Admin::DeleteKey(KeyRef::Id(entity))),
            Command::Cleanup(Cleanup::Purge { scope, rows_max: 1 }),
            Command::Cleanup(Cleanup::Purge { scope, rows_max: 100 }),
            Command::Cleanup(Cleanup::Finish(scope)),
        ],
        vec![
            Command::Admitted(Admitted { data: own.clone(), control_index: 3 }),
            Command::Fence(Fence { scope, control_index: 4 }),
            Command::Admitted(Admitted { data: own, control_index: 3 }),
            Command::Cleanup(Cleanup::CloseScope(scope)),
            Command::Data(root),
        ],
        vec![
            Command::Registry(Registry::AddNode(NodeId(1))),
            Command::Registry(Registry::Register { node: NodeId(1), previous: None, nonce: 9 }),
            Command::Registry(Registry::Reset { generation: 1 }),
            Command::Registry(Registry::Join { node: NodeId(1), incarnation: 1, generation: 1 }),
            Command::Registry(Registry::Settle { generation: 1, change: 1 }),
            Command::Registry(Registry::RemoveNode(NodeId(1))),
        ],
    ];
    let mut seeds: Vec<_> = batches.into_iter().map(|commands| encode(&Batch { time_unix_ms: 5, commands })).collect();
    // 2^60 commands, none of which is there; and a write with as long a key.
    let long = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    seeds.push([&[5][..], &long].concat());
    let written = encode(&Batch { time_unix_ms: 5, commands: vec![Command::Data(data(scope, entity, &writes[..1]))] });
    let at = written.windows(2).position(|pair| pair == [1, b'a']).expect("the key and its length");
    seeds.push([&written[..at], &long, b"a"].concat());
    seeds
}
