//! What rows look like: the only place that builds and parses their keys and values.
//!
//! A row's key begins with a tag of one byte, which says what the row is:
//!
//! | tag | rest of the key | value |
//! | --- | --- | --- |
//! | `00` | | [`Applied`] |
//! | `01` | scope | [`Account`] |
//! | `02` | entity key's id | [`EntityRow`] |
//! | `03` | SHA-256 of an API key | [`Credential`] |
//! | `04` | alias's id | [`AliasRow`] |
//! | `05` | scope | [`Deletion`] |
//! | `06` | | [`RegistryState`] |
//! | `07` | scope | [`FenceRow`] |
//! | `10`, `11` | scope, client's key | a value of the Value Store, of the Cache |
//!
//! Ids, scopes and hashes are raw bytes of fixed length, so that no key of one tenant can look like another's. The value
//! of a record is a version byte, then postcard. The value of a client's value is described at [`encode_value`].

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use storage::Read;

use crate::{
    applied::Applied,
    ids::{ApiKeyHash, ApiKeyId, Keyspace, ScopeId},
    outcome::Fault,
    registry::RegistryState,
    usage::Account,
};

const TAG_APPLIED: u8 = 0x00;
const TAG_ACCOUNT: u8 = 0x01;
const TAG_ENTITY: u8 = 0x02;
const TAG_CREDENTIAL: u8 = 0x03;
const TAG_ALIAS: u8 = 0x04;
const TAG_DELETION: u8 = 0x05;
const TAG_REGISTRY: u8 = 0x06;
const TAG_FENCE: u8 = 0x07;
const TAG_VALUES: u8 = 0x10;
const TAG_CACHE: u8 = 0x11;

/// A tag and an id.
pub(crate) type IdKey = [u8; 17];

const SCOPE_PREFIX_BYTES: usize = 17;

/// The applied row: the least key there is, so that a snapshot can put it first.
pub(crate) const APPLIED_KEY: [u8; 1] = [TAG_APPLIED];
/// The registry's row.
pub(crate) const REGISTRY_KEY: [u8; 1] = [TAG_REGISTRY];
/// What the keys of all accounts begin with.
pub(crate) const ACCOUNT_PREFIX: [u8; 1] = [TAG_ACCOUNT];
/// What the keys of all entities begin with.
pub(crate) const ENTITY_PREFIX: [u8; 1] = [TAG_ENTITY];
/// What the keys of all deletions begin with.
pub(crate) const DELETION_PREFIX: [u8; 1] = [TAG_DELETION];

/// What the keys of all of a keyspace's values begin with.
pub(crate) fn values_prefix(keyspace: Keyspace) -> [u8; 1] {
    match keyspace {
        Keyspace::Values => [TAG_VALUES],
        Keyspace::Cache => [TAG_CACHE],
    }
}

/// The key of a scope's account.
pub(crate) fn account_key(scope: ScopeId) -> IdKey {
    id_key(TAG_ACCOUNT, scope.0.as_bytes())
}

/// The key of an entity.
pub(crate) fn entity_key(id: ApiKeyId) -> IdKey {
    id_key(TAG_ENTITY, id.0.as_bytes())
}

/// The key of an alias.
pub(crate) fn alias_key(id: ApiKeyId) -> IdKey {
    id_key(TAG_ALIAS, id.0.as_bytes())
}

/// The key of a scope's deletion.
pub(crate) fn deletion_key(scope: ScopeId) -> IdKey {
    id_key(TAG_DELETION, scope.0.as_bytes())
}

/// The key of a scope's fence.
pub(crate) fn fence_key(scope: ScopeId) -> IdKey {
    id_key(TAG_FENCE, scope.0.as_bytes())
}

/// The key of a credential.
pub(crate) fn credential_key(hash: &ApiKeyHash) -> [u8; 33] {
    let mut key = [TAG_CREDENTIAL; 33];
    key[1..].copy_from_slice(&hash.0);
    key
}

/// What the keys of a scope's values begin with.
pub(crate) fn scope_prefix(keyspace: Keyspace, scope: ScopeId) -> IdKey {
    let [tag] = values_prefix(keyspace);
    id_key(tag, scope.0.as_bytes())
}

/// The key of a client's value; `key` may also be the beginning of one, to scan from.
pub(crate) fn value_key(keyspace: Keyspace, scope: ScopeId, key: &[u8]) -> Vec<u8> {
    let mut row_key = Vec::with_capacity(SCOPE_PREFIX_BYTES + key.len());
    row_key.extend_from_slice(&scope_prefix(keyspace, scope));
    row_key.extend_from_slice(key);
    row_key
}

/// The client's key inside a row's key that [`value_key`] built.
pub(crate) fn client_key(row_key: &[u8]) -> Result<&[u8], Fault> {
    row_key.get(SCOPE_PREFIX_BYTES..).ok_or_else(|| damaged("a value's key", "it is too short"))
}

/// The id inside a row's key that consists of a tag and a 16-byte id, or that begins with them.
pub(crate) fn row_id(row_key: &[u8]) -> Result<uuid::Uuid, Fault> {
    let id = row_key.get(1..SCOPE_PREFIX_BYTES).ok_or_else(|| damaged("a row's key", "it is too short"))?;
    uuid::Uuid::from_slice(id).map_err(|error| damaged("a row's key", error))
}

fn id_key(tag: u8, id: &[u8; 16]) -> IdKey {
    let mut key = [tag; 17];
    key[1..].copy_from_slice(id);
    key
}

/// An entity key as it is stored: [`Entity`](crate::keys::Entity) without the limits, which lie in the scope's
/// account, where every write needs them, and with its own credential, which its deletion needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntityRow {
    pub(crate) scope: ScopeId,
    pub(crate) hash: ApiKeyHash,
    pub(crate) name: String,
    pub(crate) expires_at_unix_ms: Option<u64>,
    pub(crate) created_at_unix_ms: u64,
    pub(crate) aliases: Vec<ApiKeyId>,
}

/// Whose secret it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credential {
    /// The key's own id: the entity's or the alias's.
    pub(crate) id: ApiKeyId,
    /// The entity, when the key is an alias.
    pub(crate) alias_of: Option<ApiKeyId>,
}

/// An alias, found by its public id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AliasRow {
    pub(crate) hash: ApiKeyHash,
    pub(crate) owner: ApiKeyId,
}

/// A scope that is being removed, or, in the cache, that was closed in this generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deletion {
    /// No key of the scope below this is left: where the next step goes on, so that it need not walk over what
    /// earlier ones removed. At most [`Deletion::CURSOR_BYTES_MAX`] bytes.
    pub(crate) cursor: Vec<u8>,
    /// Whether no row of the scope is left in this keyspace.
    pub(crate) purged: bool,
}

impl Deletion {
    /// A beginning of the last removed key is as true a cursor as all of it, and small whatever the key.
    pub(crate) const CURSOR_BYTES_MAX: usize = 256;
}

/// Which writes the Cache takes no more of a scope: those of callers that were let in under older keys and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FenceRow {
    /// The index of the `values` group's log up to which the node that let them in must have applied.
    pub(crate) control_index: u64,
}

/// What is stored as a version byte and postcard.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// What it is, for errors.
    const WHAT: &'static str;
    /// The only version there is yet.
    const VERSION: u8 = 1;
}

impl Record for Applied {
    const WHAT: &'static str = "the applied row";
}
impl Record for Account {
    const WHAT: &'static str = "a scope's account";
}
impl Record for EntityRow {
    const WHAT: &'static str = "an entity key";
}
impl Record for Credential {
    const WHAT: &'static str = "a credential";
}
impl Record for AliasRow {
    const WHAT: &'static str = "an alias";
}
impl Record for Deletion {
    const WHAT: &'static str = "a deletion";
}
impl Record for FenceRow {
    const WHAT: &'static str = "a fence";
}
impl Record for RegistryState {
    const WHAT: &'static str = "the cache registry";
}

/// The record's stored form.
pub(crate) fn encode<R: Record>(record: &R) -> Vec<u8> {
    // postcard adds byte by byte: most records, an account above all, fit without growing.
    let mut row = Vec::with_capacity(64);
    row.push(R::VERSION);
    postcard::to_extend(record, row).expect("our records hold nothing that postcard refuses, and a Vec grows")
}

/// The record in a row.
pub(crate) fn decode<R: Record>(row: &[u8]) -> Result<R, Fault> {
    let (version, body) = row.split_first().ok_or_else(|| damaged(R::WHAT, "it is empty"))?;
    if *version != R::VERSION {
        return Err(damaged(R::WHAT, format!("its format is version {version}; this program reads {}", R::VERSION)));
    }
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(damaged(R::WHAT, format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(damaged(R::WHAT, error)),
    }
}

/// The record at `key`, if there is one.
pub(crate) fn load<R: Record>(read: &impl Read, key: &[u8]) -> Result<Option<R>, Fault> {
    read.get(key)?.map(|row| decode(&row)).transpose()
}

/// Whether there is a row at `key`.
pub(crate) fn contains(read: &impl Read, key: &[u8]) -> Result<bool, Fault> {
    Ok(read.get(key)?.is_some())
}

const VALUE_VERSION: u8 = 1;
/// Every flag is reserved. Bit 0 is set aside for an expiry time: 8 bytes behind the revision, in milliseconds since
/// the Unix epoch. A program that does not know a flag refuses the row rather than misread it.
const VALUE_FLAGS: u8 = 0;

/// Bytes before the value.
pub(crate) const VALUE_HEADER_BYTES: usize = 10;

/// A client's value as it is stored: version (1 byte), flags (1), revision (8, little-endian), then its bytes.
pub(crate) fn encode_value(revision: u64, value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(VALUE_HEADER_BYTES + value.len());
    row.extend_from_slice(&[VALUE_VERSION, VALUE_FLAGS]);
    row.extend_from_slice(&revision.to_le_bytes());
    row.extend_from_slice(value);
    row
}

/// The revision and the value in a row.
pub(crate) fn decode_value(row: &[u8]) -> Result<(u64, &[u8]), Fault> {
    match row {
        [VALUE_VERSION, VALUE_FLAGS, rest @ ..] => {
            let (revision, value) =
                rest.split_first_chunk::<8>().ok_or_else(|| damaged("a value", "its header is cut short"))?;
            Ok((u64::from_le_bytes(*revision), value))
        }
        [version, flags, ..] => {
            Err(damaged("a value", format!("it has version {version} and flags {flags:#04x}, unknown to this program")))
        }
        _ => Err(damaged("a value", "its header is cut short")),
    }
}

/// A fault of decoding.
pub(crate) fn damaged(what: &'static str, detail: impl ToString) -> Fault {
    Fault::Decode { what, detail: detail.to_string() }
}

#[cfg(test)]
mod tests;
