//! A refusal that a view foretells is the one that the log would come to; `random.rs` compares them all. Here, what is never
//! foretold: a caller or a scope that is gone.

use state::{
    apply::{Payload, StateMachine},
    command::{Admin, Admitted, Batch, Cleanup, Command, Condition, Data, Fence, KeyRef, Write},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, ScopeId},
    keys::Limits,
    kv::{Key, Value},
    outcome::{DataOutcome, Outcome, Rejection},
};
use storage::MemoryEngine;
use uuid::Uuid;

use crate::{
    host::{Host, MemoryHost},
    random::position,
};

const SCOPE: ScopeId = ScopeId(Uuid::from_u128(7));
const OWNER: ApiKeyId = ApiKeyId(Uuid::from_u128(1));
const STRANGER: ApiKeyId = ApiKeyId(Uuid::from_u128(2));

fn data(api_key: ApiKeyId, condition: Condition) -> Data {
    let (key, value) = (Key::new("lock", 64).unwrap(), Value::new("held", 64).unwrap());
    Data { scope: SCOPE, api_key, request: None, quota_bytes: None, writes: vec![Write::Put { key, value, condition }] }
}

fn apply(machine: &mut StateMachine<MemoryEngine>, command: Command) -> Outcome {
    let next = machine.applied().position.map_or(0, |position| position.index as usize);
    let mut applying = machine.begin();
    let batch = Batch { time_unix_ms: 0, commands: vec![command] };
    let outcome = applying.apply(position(next), Payload::Batch(&batch)).unwrap().remove(0);
    applying.commit().unwrap();
    outcome
}

#[test]
fn in_the_value_store_only_who_exists_is_refused_for_the_condition() {
    let mut machine = MemoryHost::new().open(Keyspace::Values);
    let limits = Limits { bytes_on_disk: 100, ..Limits::default() };
    let (name, hash) = (String::new(), ApiKeyHash([1; 32]));
    let create = Admin::CreateKey { id: OWNER, scope: SCOPE, hash, name, limits, expires_at_unix_ms: None };
    apply(&mut machine, Command::Admin(create));
    apply(&mut machine, Command::Data(data(OWNER, Condition::Always)));

    let lock = Command::Data(data(OWNER, Condition::Absent));
    let refused = Outcome::Data(DataOutcome { revision: 1, result: Err(Rejection::KeyExists) });
    assert_eq!(machine.reader().refusal(&lock).unwrap(), Some(refused.clone()));
    assert_eq!(apply(&mut machine, lock.clone()), refused);
    let stranger = Command::Data(data(STRANGER, Condition::Absent));
    assert_eq!(machine.reader().refusal(&stranger).unwrap(), None);
    for undecided in [Condition::Always, Condition::RevisionIs(1)] {
        assert_eq!(machine.reader().refusal(&Command::Data(data(OWNER, undecided))).unwrap(), None);
    }

    apply(&mut machine, Command::Admin(Admin::DeleteKey(KeyRef::Id(OWNER))));
    assert_eq!(machine.reader().refusal(&lock).unwrap(), None);
}

#[test]
fn in_the_cache_only_who_stands_behind_the_fence_is_refused_for_the_condition() {
    let mut machine = MemoryHost::new().open(Keyspace::Cache);
    let admitted =
        |control_index, condition| Command::Admitted(Admitted { data: data(OWNER, condition), control_index });
    apply(&mut machine, admitted(3, Condition::Always));
    apply(&mut machine, Command::Fence(Fence { scope: SCOPE, control_index: 5 }));
    let refused = Outcome::Data(DataOutcome { revision: 1, result: Err(Rejection::KeyExists) });
    assert_eq!(machine.reader().refusal(&admitted(5, Condition::Absent)).unwrap(), Some(refused));
    assert_eq!(machine.reader().refusal(&admitted(4, Condition::Absent)).unwrap(), None);

    apply(&mut machine, Command::Cleanup(Cleanup::CloseScope(SCOPE)));
    assert_eq!(machine.reader().refusal(&admitted(5, Condition::Absent)).unwrap(), None);
}
