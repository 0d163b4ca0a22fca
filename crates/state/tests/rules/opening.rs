//! What an engine may hold when a state machine takes it over, and what is said of the rest.

use state::{
    apply::{Payload, Shared, StateMachine},
    ids::{Keyspace, Position},
    outcome::Fault,
};
use storage::{Engine, MemoryEngine, Transaction};

use crate::host::{DiskHost, Host, MemoryHost};

fn refused(host: &MemoryHost, keyspace: Keyspace) -> String {
    match StateMachine::open(host.engine(), keyspace).map(|_| ()) {
        Err(fault @ Fault::Decode { .. }) => fault.to_string(),
        other => panic!("{other:?}"),
    }
}

fn put(host: &MemoryHost, key: &[u8], value: &[u8]) {
    let engine = host.engine();
    let mut transaction = engine.begin();
    transaction.put(key, value);
    transaction.commit().unwrap();
}

#[test]
fn the_other_stores_engine_is_refused() {
    let host = MemoryHost::new();
    let mut machine = host.open(Keyspace::Values);
    let mut applying = machine.begin();
    applying.apply(Position { term: 1, index: 1 }, Payload::Blank).unwrap();
    applying.commit().unwrap();
    assert!(refused(&host, Keyspace::Cache).contains("other store"));
    assert_eq!(host.open(Keyspace::Values).applied(), machine.applied());
}

#[test]
fn rows_without_an_applied_row_are_refused() {
    let host = MemoryHost::new();
    put(&host, b"stray", b"row");
    assert!(refused(&host, Keyspace::Values).contains("not empty"));
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let host = MemoryHost::new();
    put(&host, &[0], &[9, 1, 2, 3]);
    assert!(refused(&host, Keyspace::Values).contains("version 9"));
}

#[test]
fn an_empty_engine_holds_nothing_before_the_first_commit() {
    let mut host = DiskHost::new();
    let mut machine = host.open(Keyspace::Values);
    assert_eq!(&machine.reader().applied().unwrap(), machine.applied());
    assert_eq!(machine.applied().position, None);
    let mut applying = machine.begin();
    applying.apply(Position { term: 1, index: 1 }, Payload::Blank).unwrap();
    applying.commit().unwrap();
    assert_eq!(machine.checkpointed().applied().unwrap().position, None);
    drop(machine);
    host.crash();
    assert_eq!(host.open(Keyspace::Values).applied().position, None);
}

#[test]
fn readers_work_from_any_thread() {
    fn assert_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    let mut machine = MemoryHost::new().open(Keyspace::Cache);
    let shared: Shared<MemoryEngine> = machine.shared();
    assert_shareable(&shared);
    assert_shareable(&shared.reader());
    let mut applying = machine.begin();
    applying.apply(Position { term: 1, index: 1 }, Payload::Blank).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own thread")]
    let seen = std::thread::spawn(move || shared.reader().applied().unwrap().position).join().unwrap();
    assert_eq!(seen, None);
    applying.commit().unwrap();
    assert_eq!(machine.shared().reader().applied().unwrap().position, Some(Position { term: 1, index: 1 }));
}
