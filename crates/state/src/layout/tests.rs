#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use proptest::{collection::vec, prelude::*};
use uuid::Uuid;

use super::*;
use crate::{
    applied::{Membership, Totals},
    hash::StateHash,
    ids::{NodeId, Position},
    keys::Limits,
    registry::Standing,
    usage::Usage,
};

fn decode_all(row: &[u8]) {
    let _ = decode::<Applied>(row);
    let _ = decode::<Account>(row);
    let _ = decode::<EntityRow>(row);
    let _ = decode::<Credential>(row);
    let _ = decode::<AliasRow>(row);
    let _ = decode::<Deletion>(row);
    let _ = decode::<RegistryState>(row);
    let _ = decode::<FenceRow>(row);
    let _ = decode_value(row);
    let _ = client_key(row);
    let _ = row_id(row);
}

fn id(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

fn applied() -> Applied {
    let mut state_hash = StateHash::default();
    state_hash.insert(b"key", b"value");
    let position = Position { term: u64::MAX, index: 7 };
    Applied {
        position: Some(position),
        membership: Some(Membership { position, bytes: b"opaque".as_slice().into() }),
        time_unix_ms: 1,
        state_hash,
        totals: Totals { bytes: 1, keys: 2, entities: 3 },
        ..Applied::new(Keyspace::Cache)
    }
}

fn entity() -> EntityRow {
    EntityRow {
        scope: ScopeId(id(1)),
        hash: ApiKeyHash([2; 32]),
        name: "naïve".into(),
        expires_at_unix_ms: Some(3),
        created_at_unix_ms: 4,
        aliases: vec![ApiKeyId(id(5)), ApiKeyId(id(6))],
    }
}

fn round_trip<R: Record + PartialEq + Debug>(record: R) {
    let row = encode(&record);
    assert_eq!(decode::<R>(&row).unwrap(), record);
    for end in 0..row.len() {
        decode::<R>(&row[..end]).unwrap_err();
    }
    decode::<R>(&[&row[..], &[0]].concat()).unwrap_err();
    let mut later = row.to_vec();
    later[0] += 1;
    assert!(decode::<R>(&later).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn records_come_back_and_nothing_else_passes_for_them() {
    round_trip(applied());
    round_trip(Applied::new(Keyspace::Values));
    let usage = Usage { bytes: 1 << 40, keys: 2, revision: 3 };
    round_trip(Account { usage, limits: Some(Limits::default()), closed: true });
    round_trip(entity());
    round_trip(Credential { id: ApiKeyId(id(1)), alias_of: Some(ApiKeyId(id(2))) });
    round_trip(AliasRow { hash: ApiKeyHash([3; 32]), owner: ApiKeyId(id(4)) });
    round_trip(Deletion { cursor: vec![1, 2], purged: true });
    round_trip(FenceRow { control_index: u64::MAX });
    let nodes = [
        (NodeId(1), Standing::Unregistered),
        (NodeId(2), Standing::Out { incarnation: 3 }),
        (NodeId(u64::MAX), Standing::In { generation: 4, incarnation: 5 }),
    ];
    round_trip(RegistryState { generation: 4, last_incarnation: 5, nodes: nodes.into(), ..RegistryState::default() });
}

/// These bytes are on disks: a change here is a change of format, which needs a version.
#[test]
fn formats_stand_as_they_are() {
    assert_eq!(APPLIED_KEY, [0]);
    assert_eq!(REGISTRY_KEY, [6]);
    assert_eq!(account_key(ScopeId(id(7)))[..], [[1].as_slice(), &[7; 16]].concat());
    assert_eq!(entity_key(ApiKeyId(id(7)))[..], [[2].as_slice(), &[7; 16]].concat());
    assert_eq!(credential_key(&ApiKeyHash([7; 32]))[..], [[3].as_slice(), &[7; 32]].concat());
    assert_eq!(alias_key(ApiKeyId(id(7)))[..], [[4].as_slice(), &[7; 16]].concat());
    assert_eq!(deletion_key(ScopeId(id(7)))[..], [[5].as_slice(), &[7; 16]].concat());
    assert_eq!(fence_key(ScopeId(id(7)))[..], [[7].as_slice(), &[7; 16]].concat());
    assert_eq!(encode(&FenceRow { control_index: 300 })[..], [1, 0xac, 2]);
    assert_eq!(value_key(Keyspace::Values, ScopeId(id(7)), b"k"), [[0x10].as_slice(), &[7; 16], b"k"].concat());
    assert_eq!(value_key(Keyspace::Cache, ScopeId(id(7)), b"k"), [[0x11].as_slice(), &[7; 16], b"k"].concat());
    assert_eq!(encode_value(0x0102, b"v")[..], [1, 0, 2, 1, 0, 0, 0, 0, 0, 0, b'v']);
    let usage = Usage { bytes: 300, keys: 2, revision: 3 };
    assert_eq!(encode(&Account { usage, limits: None, closed: true })[..], [1, 0xac, 2, 2, 3, 0, 1]);
}

#[test]
fn a_value_of_a_later_version_is_refused() {
    let row = encode_value(1, b"value");
    for changed in 0..2 {
        let mut later = row.to_vec();
        later[changed] ^= 2;
        assert!(decode_value(&later).unwrap_err().to_string().contains("unknown"));
    }
    for end in 0..VALUE_HEADER_BYTES {
        decode_value(&row[..end]).unwrap_err();
    }
}

proptest! {
    #[test]
    fn values_come_back(revision in any::<u64>(), value in vec(any::<u8>(), 0..64)) {
        let row = encode_value(revision, &value);
        prop_assert_eq!(decode_value(&row).unwrap(), (revision, value.as_slice()));
        prop_assert_eq!(row.len(), VALUE_HEADER_BYTES + value.len());
    }

    #[test]
    fn keys_come_back(scope in any::<u128>(), key in vec(any::<u8>(), 0..64)) {
        let row_key = value_key(Keyspace::Values, ScopeId(Uuid::from_u128(scope)), &key);
        prop_assert_eq!(client_key(&row_key).unwrap(), key.as_slice());
        prop_assert_eq!(row_id(&row_key).unwrap(), Uuid::from_u128(scope));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(version in 0..3_u8, rest in vec(any::<u8>(), 0..80)) {
        decode_all(&rest);
        decode_all(&[[version].as_slice(), &rest].concat());
    }

    #[test]
    fn no_damage_makes_a_decoder_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for row in [encode(&applied()), encode(&entity())] {
            let mut row = row.to_vec();
            let at = at.index(row.len());
            row[at] = byte;
            decode_all(&row);
        }
    }
}
