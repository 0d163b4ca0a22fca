//! Steps of removal are bounded in bytes too, whatever the size of keys and values.

use state::{
    apply::{Payload, StateMachine},
    bounds::{PURGE_BYTES_MAX, PURGE_ROWS_MAX},
    command::{Batch, Cleanup, Command, Condition, Data, Write},
    ids::{ApiKeyId, Keyspace, Position, ScopeId},
    kv::{Key, Value},
    outcome::{Done, Outcome},
};
use storage::Engine;
use uuid::Uuid;

use crate::host::{DiskHost, Host, MemoryHost};

const SCOPE: ScopeId = ScopeId(Uuid::from_u128(1));
const MIB: usize = 1_048_576;

fn apply<E: Engine>(machine: &mut StateMachine<E>, command: Command) -> Outcome {
    let index = machine.applied().position.map_or(1, |position| position.index + 1);
    let batch = Batch { time_unix_ms: 0, commands: vec![command] };
    let mut applying = machine.begin();
    let outcomes = applying.apply(Position { term: 1, index }, Payload::Batch(&batch)).unwrap();
    applying.commit().unwrap();
    outcomes.into_iter().next().unwrap()
}

/// Keys that differ only behind the bytes that a step's cursor keeps.
fn write_and_close<E: Engine>(machine: &mut StateMachine<E>, keys: u32, value_bytes: usize) {
    for n in 0..keys {
        let key = Key::new([[7; 1_000].as_slice(), &n.to_be_bytes()].concat(), MIB).unwrap();
        let value = Value::new(vec![1; value_bytes], MIB).unwrap();
        let writes = vec![Write::Put { key, value, condition: Condition::Always }];
        let data = Data { scope: SCOPE, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes };
        apply(machine, Command::Data(data));
    }
    apply(machine, Command::Cleanup(Cleanup::CloseScope(SCOPE)));
}

/// Removes the scope, checking the books at each step, and answers how many rows each step removed.
fn purge<E: Engine>(machine: &mut StateMachine<E>, rows_max: u32) -> Vec<u32> {
    let mut steps = Vec::new();
    loop {
        let outcome = apply(machine, Command::Cleanup(Cleanup::Purge { scope: SCOPE, rows_max }));
        assert_eq!(machine.reader().recount().unwrap().totals, machine.applied().totals);
        let Outcome::Done(Done::Purged { rows, done }) = outcome else { panic!("{outcome:?}") };
        steps.push(rows);
        if done {
            return steps;
        }
    }
}

#[test]
fn a_step_takes_no_further_row_past_its_bytes() {
    let mut machine = MemoryHost::new().open(Keyspace::Cache);
    write_and_close(&mut machine, 10, MIB);
    assert_eq!(PURGE_BYTES_MAX, 4 * MIB);
    assert_eq!(purge(&mut machine, PURGE_ROWS_MAX), [4, 4, 2]);
}

#[test]
fn keys_longer_than_the_cursor_all_go() {
    let host = DiskHost::new();
    let mut machine = host.open(Keyspace::Cache);
    write_and_close(&mut machine, 50, 1);
    machine.engine().checkpoint().unwrap();
    assert_eq!(purge(&mut machine, 20), [20, 20, 10]);
    assert_eq!(machine.reader().totals().unwrap().bytes, 0);
}
