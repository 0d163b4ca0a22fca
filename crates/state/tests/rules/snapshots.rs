//! Snapshots: whole ones arrive however they are cut, and damaged ones change nothing.

use proptest::prelude::*;
use state::{
    apply::{Payload, StateMachine},
    command::{Batch, Command, Condition, Data, Write},
    ids::{ApiKeyId, Keyspace, ScopeId},
    kv::{Key, Page, PageStart, Value},
    snapshot::{Error, FRAME_BYTES},
};

use crate::{
    engine::PlainEngine,
    host::{Host, PlainHost},
    random::position,
};

/// A machine with `keys` values of `value_bytes` each.
fn filled(keyspace: Keyspace, keys: u32, value_bytes: usize) -> StateMachine<PlainEngine> {
    let mut machine = PlainHost::new().open(keyspace);
    let put = |n: u32| Write::Put {
        key: Key::new(n.to_be_bytes(), 8).unwrap(),
        value: Value::new(vec![n as u8; value_bytes], value_bytes).unwrap(),
        condition: Condition::Always,
    };
    let writes = (0..keys).map(put).collect();
    let data = Data { scope: ScopeId::ROOT, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes };
    let batch = Batch { time_unix_ms: 1, commands: vec![Command::Data(data)] };
    let mut applying = machine.begin();
    applying.apply(position(0), Payload::Batch(&batch)).unwrap();
    applying.commit().unwrap();
    machine
}

fn export(machine: &StateMachine<PlainEngine>) -> Vec<Vec<u8>> {
    machine.reader().export().map(Result::unwrap).collect()
}

fn install(machine: &mut StateMachine<PlainEngine>, bytes: &[u8], piece_bytes: usize) -> Result<(), Error> {
    machine.install(bytes.chunks(piece_bytes).map(|piece| Ok(piece.to_vec())))
}

/// Installing fails, and leaves the machine as it was.
fn refused(bytes: &[u8]) -> String {
    let mut machine = filled(Keyspace::Values, 3, 5);
    let before = machine.applied().clone();
    let version = machine.shared().control_version();
    let error = install(&mut machine, bytes, 1_000).unwrap_err();
    assert_eq!(machine.applied(), &before);
    assert_eq!(machine.reader().recount().unwrap().state_hash, before.state_hash);
    assert_eq!(machine.shared().control_version(), version);
    error.to_string()
}

#[test]
fn a_large_state_arrives_in_bounded_frames() {
    let source = filled(Keyspace::Values, 300, 10_000);
    let frames = export(&source);
    assert!(frames.len() > 10);
    assert!(frames.iter().all(|frame| frame.len() < FRAME_BYTES + 11_000));
    for piece_bytes in [100, 4_096, 10_000_000] {
        let mut target = filled(Keyspace::Values, 3, 5);
        install(&mut target, &frames.concat(), piece_bytes).unwrap();
        assert_eq!(target.applied(), source.applied());
        assert_eq!(target.reader().recount().unwrap().state_hash, source.applied().state_hash);
        assert_eq!(target.shared().control_version(), 1);
    }
}

#[test]
fn an_empty_state_arrives_too() {
    let source = PlainHost::new().open(Keyspace::Cache);
    let mut target = filled(Keyspace::Cache, 3, 5);
    install(&mut target, &export(&source).concat(), 7).unwrap();
    assert_eq!(target.applied(), source.applied());
    assert_eq!(target.reader().totals().unwrap().keys, 0);
}

#[test]
fn an_export_shows_one_view_while_the_state_goes_on() {
    let mut source = filled(Keyspace::Values, 300, 10_000);
    let before = source.applied().clone();
    let mut frames = source.reader().export();
    let mut bytes = frames.next().unwrap().unwrap();
    install(&mut source, &export(&filled(Keyspace::Values, 1, 1)).concat(), 100).unwrap();
    for frame in frames {
        bytes.extend(frame.unwrap());
    }
    install(&mut source, &bytes, 100_000).unwrap();
    assert_eq!(source.applied(), &before);
}

#[test]
fn frames_that_are_lost_doubled_or_swapped_are_noticed() {
    let frames = export(&filled(Keyspace::Values, 300, 10_000));
    let last = frames.len() - 1;
    for index in 0..=last {
        let mut lost = frames.clone();
        lost.remove(index);
        refused(&lost.concat());
        let mut doubled = frames.clone();
        doubled.insert(index, frames[index].clone());
        refused(&doubled.concat());
        if index < last {
            let mut swapped = frames.clone();
            swapped.swap(index, index + 1);
            refused(&swapped.concat());
        }
    }
}

#[test]
fn good_frames_of_different_states_are_no_snapshot() {
    let ours = export(&filled(Keyspace::Values, 300, 10_000));
    let others = export(&filled(Keyspace::Values, 300, 10_001));
    assert_eq!(ours.len(), others.len());
    for index in 0..ours.len() - 1 {
        let mut mixed = ours.clone();
        mixed[index] = others[index].clone();
        assert!(refused(&mixed.concat()).contains("hash to"));
    }
    let mut short = export(&filled(Keyspace::Values, 299, 10_000));
    *short.last_mut().unwrap() = ours.last().unwrap().clone();
    assert!(refused(&short.concat()).contains("trailer says otherwise"));
}

#[test]
fn what_is_no_snapshot_of_this_store_is_refused() {
    assert!(refused(&[]).contains("empty"));
    assert!(refused(&export(&filled(Keyspace::Cache, 3, 5)).concat()).contains("other store"));
    assert!(refused(&[0xff; 64]).contains("claims"));
}

#[test]
fn a_source_that_fails_is_reported_as_such() {
    let mut machine = filled(Keyspace::Values, 3, 5);
    let before = machine.applied().clone();
    let frames = export(&filled(Keyspace::Values, 300, 10_000)).into_iter().take(4).map(Ok);
    let broken = frames.chain([Err(std::io::Error::other("the peer is gone"))]);
    assert!(matches!(machine.install(broken), Err(Error::Source(_))));
    assert_eq!(machine.applied(), &before);
}

#[test]
fn a_page_is_the_same_however_far_it_reads_ahead() {
    let mut machine = filled(Keyspace::Cache, 1_500, 1);
    let page = |offset, limit| Page::new("", PageStart::Offset(offset), limit).unwrap();
    let reader = machine.reader();
    let numbers = |page: &Page| -> Vec<u32> {
        let keys = reader.keys(ScopeId::ROOT, page).map(|key| key.unwrap().as_bytes().try_into().unwrap());
        keys.map(u32::from_be_bytes).collect()
    };
    assert_eq!(numbers(&page(0, 1_000)), (0..1_000).collect::<Vec<_>>());
    assert_eq!(numbers(&page(700, 1_000)), (700..1_500).collect::<Vec<_>>());
    assert_eq!(numbers(&page(1_372, 128)), (1_372..1_500).collect::<Vec<_>>());
    let after = Page::new("", PageStart::After(999_u32.to_be_bytes().to_vec()), 300).unwrap();
    assert_eq!(numbers(&after), (1_000..1_300).collect::<Vec<_>>());

    // One page is one view: what happens meanwhile does not show in it.
    let mut keys = reader.keys(ScopeId::ROOT, &page(0, 1_000));
    let first = keys.next().unwrap().unwrap();
    install(&mut machine, &export(&filled(Keyspace::Cache, 1, 1)).concat(), 100).unwrap();
    assert_eq!(first.as_bytes(), 0_u32.to_be_bytes());
    assert_eq!(keys.count(), 999);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_damaged_bit_and_every_cut_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let mut bytes = export(&filled(Keyspace::Values, 20, 50)).concat();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        refused(&bytes);
    }
}
