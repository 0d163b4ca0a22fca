//! Random histories against the model, with checkpoints, crashes and snapshots between them. After every step the
//! books must equal a recount, and everything that can be read must equal the model.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use state::{
    apply::{Payload, StateMachine},
    command::{Admin, Admitted, Batch, Cleanup, Command, Condition, Data, Fence, KeyRef, Write},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, Position, ScopeId},
    keys::{Limits, LimitsPatch},
    kv::{Key, Page, PageStart, Value},
    outcome::{DataOutcome, Outcome, Rejection},
};
use storage::Engine;
use uuid::Uuid;

use crate::{
    host::{DiskHost, Host, MemoryHost, PlainHost},
    model::Model,
};

#[test]
fn values_on_the_plain_engine() {
    follow_random::<PlainHost>(Keyspace::Values, 512);
}

#[test]
fn cache_on_the_plain_engine() {
    follow_random::<PlainHost>(Keyspace::Cache, 512);
}

#[test]
fn values_on_the_memory_engine() {
    follow_random::<MemoryHost>(Keyspace::Values, 128);
}

#[test]
fn cache_on_the_memory_engine() {
    follow_random::<MemoryHost>(Keyspace::Cache, 128);
}

#[test]
fn values_on_the_disk_engine() {
    follow_random::<DiskHost>(Keyspace::Values, 128);
}

#[test]
fn cache_on_the_disk_engine() {
    follow_random::<DiskHost>(Keyspace::Cache, 64);
}

fn follow_random<H: Host>(keyspace: Keyspace, cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&vec(step(), 1..40), |steps| follow::<H>(keyspace, &steps)).unwrap();
}

/// What happens next to a node.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Command>),
    Checkpoint,
    /// All that is not durable is lost; the log brings it back.
    Crash,
    /// A new node takes over by a snapshot.
    Snapshot,
}

fn follow<H: Host>(keyspace: Keyspace, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut host = H::new();
    let mut machine = host.open(keyspace);
    let mut model = Model::new(keyspace);
    let mut log: Vec<Batch> = Vec::new();
    for step in steps {
        match step {
            Step::Apply(commands) => {
                let foretold = commands.first().and_then(|command| machine.reader().refusal(command).unwrap());
                log.push(Batch { time_unix_ms: log.len() as u64, commands: commands.clone() });
                let outcomes = apply_rest(&mut machine, &log);
                let expected: Vec<Outcome> = commands.iter().map(|command| model.apply(command)).collect();
                prop_assert_eq!(&outcomes, &expected);
                let refused = commands.first().filter(|command| command.is_conditional()).and(expected.first());
                match (foretold, refused) {
                    (Some(foretold), refused) => prop_assert_eq!(Some(&foretold), refused),
                    // Of a scope without an account the log decides.
                    (None, Some(Outcome::Data(DataOutcome { revision: 1.., result: Err(refusal) }))) => {
                        prop_assert!(!matches!(refusal, Rejection::KeyExists | Rejection::ValueDiffers));
                    }
                    (None, _) => {}
                }
            }
            Step::Checkpoint => {
                machine.engine().checkpoint().unwrap();
                prop_assert_eq!(&machine.checkpointed().applied().unwrap(), machine.applied());
            }
            Step::Crash => {
                let before = machine.applied().clone();
                drop(machine);
                host.crash();
                machine = host.open(keyspace);
                apply_rest(&mut machine, &log);
                prop_assert_eq!(machine.applied(), &before);
            }
            Step::Snapshot => {
                let pieces: Vec<Vec<u8>> = machine.reader().export().map(Result::unwrap).collect();
                let before = machine.applied().clone();
                host = H::new();
                machine = host.open(keyspace);
                machine.install(pieces.into_iter().map(Ok)).unwrap();
                prop_assert_eq!(machine.applied(), &before);
            }
        }
        check(&machine, &model)?;
    }
    Ok(())
}

/// Applies what the machine has not applied of the log, as Raft would, and answers the last entry's outcomes.
fn apply_rest<E: Engine>(machine: &mut StateMachine<E>, log: &[Batch]) -> Vec<Outcome> {
    let applied = machine.applied().position.map_or(0, |position| position.index as usize);
    let mut applying = machine.begin();
    let mut outcomes = Vec::new();
    for (index, batch) in log.iter().enumerate().skip(applied) {
        outcomes = applying.apply(position(index), Payload::Batch(batch)).unwrap();
    }
    applying.commit().unwrap();
    outcomes
}

/// Entries are numbered from 1.
pub(crate) fn position(index: usize) -> Position {
    Position { term: 1, index: index as u64 + 1 }
}

fn check<E: Engine>(machine: &StateMachine<E>, model: &Model) -> Result<(), TestCaseError> {
    let reader = machine.reader();
    let applied = reader.applied().unwrap();
    let recount = reader.recount().unwrap();
    prop_assert_eq!(&applied, machine.applied());
    prop_assert_eq!(recount.state_hash, applied.state_hash);
    prop_assert_eq!(recount.totals, applied.totals);
    prop_assert_eq!(applied.totals.entities, model.entities.len() as u64);
    let all = Page::new("", PageStart::Offset(0), 1_000).unwrap();
    for scope in scopes() {
        let tenant = model.tenants.get(&scope);
        prop_assert_eq!(reader.usage(scope).unwrap(), tenant.map(|tenant| tenant.usage()).unwrap_or_default());
        let mut live = tenant.map(|tenant| tenant.live.clone()).unwrap_or_default();
        for key in reader.keys(scope, &all) {
            let key = Key::new(key.unwrap().as_bytes(), 64).unwrap();
            let stored = reader.get(scope, &key).unwrap().unwrap();
            let expected = live.remove(key.as_bytes());
            prop_assert_eq!(Some((stored.value().to_vec(), stored.revision())), expected);
        }
        prop_assert!(live.is_empty());
    }
    Ok(())
}

fn scopes() -> impl Iterator<Item = ScopeId> {
    (0..4).map(|n| ScopeId(Uuid::from_u128(n))) // the first is the root scope
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => batch().prop_map(Step::Apply),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
        1 => Just(Step::Snapshot),
    ]
}

/// The commands of one entry.
pub(crate) fn batch() -> impl Strategy<Value = Vec<Command>> {
    vec(command(), 0..6)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => data().prop_map(Command::Data),
        4 => (data(), 0_u64..4).prop_map(|(data, control_index)| Command::Admitted(Admitted { data, control_index })),
        1 => (scope(), 0_u64..4).prop_map(|(scope, control_index)| Command::Fence(Fence { scope, control_index })),
        4 => admin().prop_map(Command::Admin),
        3 => cleanup().prop_map(Command::Cleanup),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    let quota_bytes = proptest::option::of(0..40_u64);
    (scope(), quota_bytes, vec(write(), 0..4)).prop_map(|(scope, quota_bytes, writes)| Data {
        scope,
        api_key: ApiKeyId::ROOT,
        request: None,
        quota_bytes,
        writes,
    })
}

fn write() -> impl Strategy<Value = Write> {
    let delta = prop_oneof![-9_i64..100, Just(i64::MAX), Just(i64::MIN)];
    prop_oneof![
        3 => (key(), value(), condition()).prop_map(|(key, value, condition)| Write::Put { key, value, condition }),
        2 => (key(), condition()).prop_map(|(key, condition)| Write::Delete { key, condition }),
        2 => (key(), delta).prop_map(|(key, delta)| Write::Bump { key, delta }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => value().prop_map(Condition::ValueIs),
        1 => (0..9_u64).prop_map(Condition::RevisionIs),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    // Few, so that they meet; some contain each other; one is made of the bytes that ids end with.
    let keys: [&[u8]; 6] = [b"a", b"ab", b"b", b"\0", b"\xff\xff", b"\0\0\0\x01"];
    proptest::sample::select(keys.to_vec()).prop_map(|key| Key::new(key, 64).unwrap())
}

fn value() -> impl Strategy<Value = Value> {
    let values: [&[u8]; 7] = [b"", b"0", b"1", b"-7", b"9223372036854775807", b"not a number", b"\xff"];
    proptest::sample::select(values.to_vec()).prop_map(|value| Value::new(value, 64).unwrap())
}

fn scope() -> impl Strategy<Value = ScopeId> {
    (0..4_u128).prop_map(|n| ScopeId(Uuid::from_u128(n)))
}

fn admin() -> impl Strategy<Value = Admin> {
    let api_key = (1..4_u128).prop_map(|n| ApiKeyId(Uuid::from_u128(n)));
    let quota = 0..60_u64;
    (api_key, scope(), quota, 0..6_u8).prop_map(|(id, scope, bytes_on_disk, kind)| match kind {
        0 => Admin::DeleteKey(KeyRef::Id(id)),
        1 => Admin::SetLimits(
            KeyRef::Id(id),
            LimitsPatch { bytes_on_disk: Some(bytes_on_disk), ..LimitsPatch::default() },
        ),
        _ => Admin::CreateKey {
            id,
            scope,
            hash: ApiKeyHash([id.0.as_bytes()[15]; 32]),
            name: String::new(),
            limits: Limits { bytes_on_disk, ..Limits::default() },
            expires_at_unix_ms: None,
        },
    })
}

fn cleanup() -> impl Strategy<Value = Cleanup> {
    prop_oneof![
        1 => scope().prop_map(Cleanup::CloseScope),
        3 => (scope(), 0..4_u32).prop_map(|(scope, rows_max)| Cleanup::Purge { scope, rows_max }),
        1 => scope().prop_map(Cleanup::Finish),
    ]
}
