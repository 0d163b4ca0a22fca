//! Determinism: how the entries are grouped into transactions, and on which engine, changes nothing.

use proptest::{collection::vec, prelude::*};
use state::{applied::Applied, apply::Payload, command::Batch, ids::Keyspace, outcome::Outcome};

use crate::{
    host::{DiskHost, Host, MemoryHost, PlainHost},
    random::{batch, position},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grouping_and_engine_change_nothing(entries in vec(batch(), 0..30), group_entries in 2..9_usize, cache in any::<bool>()) {
        let keyspace = if cache { Keyspace::Cache } else { Keyspace::Values };
        let one_by_one = run::<PlainHost>(keyspace, &entries, 1);
        prop_assert_eq!(&one_by_one, &run::<PlainHost>(keyspace, &entries, group_entries));
        prop_assert_eq!(&one_by_one, &run::<MemoryHost>(keyspace, &entries, group_entries));
        prop_assert_eq!(&one_by_one, &run::<DiskHost>(keyspace, &entries, group_entries));
    }

    /// A scope's commands that stand together in an entry share its account: that must not show.
    #[test]
    fn an_entry_of_many_commands_does_what_many_entries_do(commands in vec(batch(), 0..12), cache in any::<bool>()) {
        let keyspace = if cache { Keyspace::Cache } else { Keyspace::Values };
        let together = vec![commands.concat()];
        let apart: Vec<_> = together[0].iter().map(|command| vec![command.clone()]).collect();
        let (entry, outcomes) = run_at::<PlainHost>(keyspace, &together, 1, |_| 3);
        let (entries, each) = run_at::<PlainHost>(keyspace, &apart, 1, |_| 3);
        prop_assert_eq!((entry.state_hash, entry.totals, outcomes), (entries.state_hash, entries.totals, each));
    }
}

fn run<H: Host>(
    keyspace: Keyspace,
    entries: &[Vec<state::command::Command>],
    group_entries: usize,
) -> (Applied, Vec<Outcome>) {
    // Clocks of changing leaders: not in order.
    run_at::<H>(keyspace, entries, group_entries, |index| (index as u64 * 7) % 5)
}

fn run_at<H: Host>(
    keyspace: Keyspace,
    entries: &[Vec<state::command::Command>],
    group_entries: usize,
    time_unix_ms: impl Fn(usize) -> u64,
) -> (Applied, Vec<Outcome>) {
    let host = H::new();
    let mut machine = host.open(keyspace);
    let mut outcomes = Vec::new();
    let numbered: Vec<_> = entries.iter().enumerate().collect();
    for group in numbered.chunks(group_entries) {
        let mut applying = machine.begin();
        for (index, commands) in group {
            let batch = Batch { time_unix_ms: time_unix_ms(*index), commands: commands.to_vec() };
            outcomes.extend(applying.apply(position(*index), Payload::Batch(&batch)).unwrap());
        }
        applying.commit().unwrap();
    }
    (machine.applied().clone(), outcomes)
}

#[test]
fn a_dropped_transaction_leaves_nothing() {
    let host = PlainHost::new();
    let mut machine = host.open(Keyspace::Values);
    let before = machine.applied().clone();
    let mut applying = machine.begin();
    applying.apply(position(0), Payload::Membership(b"one")).unwrap();
    drop(applying);
    assert_eq!(machine.applied(), &before);
    assert_eq!(machine.reader().applied().unwrap(), before);
}
