//! The words of the transcripts: names for ids, arguments for commands, lines for outcomes.

use std::error::Error;

use goldenscript::ArgumentConsumer;
use state::{
    command::{Admin, Command, Condition, KeyRef, Write},
    ids::{ApiKeyHash, ApiKeyId, ScopeId},
    keys::{Entity, Limits},
    kv::{Key, Value},
    outcome::{Done, Outcome},
};
use uuid::Uuid;

pub(crate) fn show_outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Data(data) => {
            let revision = data.revision;
            match data.result {
                Ok(None) => format!("ok revision={revision}"),
                Ok(Some(sum)) => format!("{sum} revision={revision}"),
                Err(rejection) => format!("refused {rejection:?} revision={revision}"),
            }
        }
        Outcome::Done(Done::KeyDeleted { scope }) => format!("KeyDeleted {}", name_of(scope.0)),
        Outcome::Done(done) => format!("{done:?}"),
        Outcome::Refused(rejection) => format!("refused {rejection:?}"),
    }
}

pub(crate) fn show_entity(entity: &Entity) -> String {
    let aliases: Vec<String> = entity.aliases.iter().map(|alias| name_of(alias.0)).collect();
    format!(
        "{} scope={} name={} {:?} expires={:?} created={} aliases={aliases:?}",
        name_of(entity.id.0),
        name_of(entity.scope.0),
        entity.name,
        entity.limits,
        entity.expires_at_unix_ms,
        entity.created_at_unix_ms,
    )
}

pub(crate) fn positional<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str, Box<dyn Error>> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

pub(crate) fn condition(args: &mut ArgumentConsumer<'_>) -> Result<Condition, Box<dyn Error>> {
    Ok(match (args.take_key("old"), args.take_key("revision")) {
        (Some(old), _) => Condition::ValueIs(parse_value(old)),
        (None, Some(revision)) => Condition::RevisionIs(revision.parse()?),
        (None, None) => Condition::Always,
    })
}

pub(crate) fn parse_write(text: &str) -> Result<Write, Box<dyn Error>> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        ["set", key, value] => Ok(put(key, value, Condition::Always)),
        ["setnx", key, value] => Ok(put(key, value, Condition::Absent)),
        ["delete", key] => Ok(Write::Delete { key: parse_key(key), condition: Condition::Always }),
        ["bump", key, delta] => bump(key, delta),
        _ => Err(format!("no write {text}").into()),
    }
}

pub(crate) fn put(key: &str, value: &str, condition: Condition) -> Write {
    Write::Put { key: parse_key(key), value: parse_value(value), condition }
}

pub(crate) fn bump(key: &str, delta: &str) -> Result<Write, Box<dyn Error>> {
    Ok(Write::Bump { key: parse_key(key), delta: delta.parse()? })
}

pub(crate) fn parse_key(text: &str) -> Key {
    Key::new(text, 1_024).unwrap()
}

pub(crate) fn parse_value(text: &str) -> Value {
    Value::new(text, 1_024).unwrap()
}

pub(crate) fn limits(quota: Option<u64>) -> Limits {
    Limits { bytes_on_disk: quota.unwrap_or(Limits::default().bytes_on_disk), ..Limits::default() }
}

pub(crate) fn create_key(name: &str, hash_of: &str, limits: Limits, expires_at_unix_ms: Option<u64>) -> Command {
    Command::Admin(Admin::CreateKey {
        id: api_key(name),
        scope: scope(name),
        hash: hash(hash_of),
        name: name.into(),
        limits,
        expires_at_unix_ms,
    })
}

pub(crate) fn id(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    if name != "root" {
        bytes[..name.len()].copy_from_slice(name.as_bytes());
    }
    Uuid::from_bytes(bytes)
}

pub(crate) fn name_of(id: Uuid) -> String {
    if id.is_nil() { "root".into() } else { String::from_utf8_lossy(id.as_bytes()).trim_end_matches('\0').into() }
}

pub(crate) fn scope(name: &str) -> ScopeId {
    ScopeId(id(name))
}

pub(crate) fn api_key(name: &str) -> ApiKeyId {
    ApiKeyId(id(name))
}

pub(crate) fn hash(name: &str) -> ApiKeyHash {
    let mut bytes = [0xff; 32];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    ApiKeyHash(bytes)
}

/// `@name` means the key by its hash, `name` by its id.
pub(crate) fn key_ref(text: &str) -> KeyRef {
    match text.strip_prefix('@') {
        Some(name) => KeyRef::Hash(hash(name)),
        None => KeyRef::Id(api_key(text)),
    }
}
