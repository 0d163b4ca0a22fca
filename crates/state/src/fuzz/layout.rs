//! The rows' keys and values.
//!
//! Two rows' keys are in the order of what they are made of, and give it back. Any bytes as a row are refused, or are a
//! record whose encoding is the same record again.

use uuid::Uuid;

use super::{Taker, Target};
use crate::{
    applied::Applied,
    ids::{Keyspace, ScopeId},
    layout::{self, AliasRow, Credential, Deletion, EntityRow, FenceRow, Record},
    registry::RegistryState,
    usage::Account,
};

/// See the module.
pub const LAYOUT: Target = Target { name: "layout", check, seeds };

fn check(input: &[u8]) {
    keys(&mut Taker(input));
    value(input);
    record::<Applied>(input);
    record::<Account>(input);
    record::<EntityRow>(input);
    record::<Credential>(input);
    record::<AliasRow>(input);
    record::<Deletion>(input);
    record::<RegistryState>(input);
    record::<FenceRow>(input);
}

fn keys(taker: &mut Taker<'_>) {
    let mut row = |keyspace| {
        let scope = ScopeId(Uuid::from_bytes([taker.byte() % 4; 16]));
        let count = usize::from(taker.byte() % 32);
        (keyspace, scope, taker.bytes(count).to_vec())
    };
    let (one, other) = (row(Keyspace::Values), row(Keyspace::Values));
    let built = |(keyspace, scope, key): &(Keyspace, ScopeId, Vec<u8>)| layout::value_key(*keyspace, *scope, key);
    assert_eq!(
        built(&one).cmp(&built(&other)),
        (one.1, &one.2).cmp(&(other.1, &other.2)),
        "order of keys and of bytes"
    );
    // Nothing of one scope, and nothing of one store, lies among what is another's.
    let prefix = layout::scope_prefix(one.0, one.1);
    assert_eq!(built(&other).starts_with(&prefix), one.1 == other.1);
    assert!(!built(&(Keyspace::Cache, one.1, one.2.clone())).starts_with(&prefix));
    assert_eq!(layout::client_key(&built(&one)).expect("it has one"), one.2);
    assert_eq!(layout::row_id(&built(&one)).expect("it has one"), one.1.0);
}

fn value(input: &[u8]) {
    if let Ok((revision, value)) = layout::decode_value(input) {
        assert_eq!(&*layout::encode_value(revision, value), input, "a value's row is what it was");
    }
    let row = layout::encode_value(7, input);
    assert_eq!(layout::decode_value(&row).expect("what was encoded is decoded"), (7, input));
}

fn record<R: Record + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(record) = layout::decode::<R>(input) {
        let encoded = layout::encode(&record);
        assert!(encoded.len() <= input.len(), "the encoding is longer than what was decoded");
        assert_eq!(layout::decode::<R>(&encoded).expect("what was encoded is decoded"), record);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let id = |byte| Uuid::from_bytes([byte; 16]);
    let hash = crate::ids::ApiKeyHash([2; 32]);
    let entity = EntityRow {
        scope: ScopeId(id(1)),
        hash,
        name: "name".to_owned(),
        expires_at_unix_ms: Some(3),
        created_at_unix_ms: 4,
        aliases: vec![crate::ids::ApiKeyId(id(5))],
    };
    let (owner, cursor) = (crate::ids::ApiKeyId(id(6)), b"cursor".to_vec());
    let rows = [
        layout::encode(&Applied::new(Keyspace::Values)),
        layout::encode(&entity),
        layout::encode(&Credential { id: owner, alias_of: Some(owner) }),
        layout::encode(&AliasRow { hash, owner }),
        layout::encode(&Deletion { cursor, purged: true }),
        layout::encode(&FenceRow { control_index: 300 }),
        layout::encode(&RegistryState::default()),
        layout::encode_value(9, b"value"),
    ];
    rows.iter().map(|row| row.to_vec()).chain([b"\x00\x03abc\x01\x03abd".to_vec(), Vec::new()]).collect()
}
