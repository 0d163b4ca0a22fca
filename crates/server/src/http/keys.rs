//! The caller's own usage and aliases; and, for operators, API keys and their limits.

use api::{request, response};
use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use consensus::env::Env;
use serde::Serialize;
use state::{
    bounds,
    command::{Admin, KeyRef},
    ids::{ApiKeyId, ScopeId},
    keys::{Entity, Limits, LimitsPatch},
};
use uuid::Uuid;

use crate::{
    env::random_bytes,
    http::{KnownCall, caller, error::Error},
    service::Both,
};

/// What every API key begins with.
const KEY_PREFIX: &str = "insi_";
/// The randomness of an API key: 256 bits.
const KEY_RANDOM_BYTES: usize = 32;

/// How routes name an API key, for their errors.
const KEY_NAMES: &str = "`key` or `key_uuid`";
const API_KEY_NAMES: &str = "`api_key` or `key_uuid`";
const ROOT_API_KEY_NAMES: &str = "`root_api_key` or `key_uuid`";

/// `GET /limits`.
pub(crate) async fn limits(call: KnownCall<'_>) -> Result<Response, Error> {
    let both = call.call.app.service.both(call.call.deadline()).await?;
    let usage = both.usage(call.known.scope())?;
    let entity = &call.known.caller.entity;
    let max_limits = if call.known.is_root() { response::MaxLimits::default() } else { max_limits(entity.limits) };
    Ok(json(&response::Limits { usage, max_limits }))
}

/// `GET /ping`.
pub(crate) fn ping(call: &KnownCall<'_>) -> Result<Response, Error> {
    let status = call.call.app.service.values().status();
    Ok(json(&response::Ping {
        status: "ok".to_owned(),
        entity: call.known.caller.entity.name.clone(),
        node: status.member.node.to_string(),
        leader: status.leader.map(|leader| leader.node.to_string()).unwrap_or_default(),
        uptime: uptime(call.call.app.env.monotonic().as_secs()),
    }))
}

/// `/alias/set`.
pub(crate) async fn alias_create(call: KnownCall<'_>) -> Result<Response, Error> {
    if call.known.is_root() {
        return Err(Error::Forbidden("The root key has no aliases"));
    }
    if call.known.caller.is_alias {
        return Err(Error::AliasCannotCreate);
    }
    let env = &*call.call.app.env;
    let alias = new_key(env);
    let owner = call.known.caller.entity.id;
    let admin = Admin::CreateAlias { owner, id: ApiKeyId(new_id(env)), hash: caller::hash(&alias) };
    call.call.app.service.administer(admin, call.call.deadline()).await?;
    Ok(json(&response::Alias { alias }))
}

/// `POST /alias/delete`.
pub(crate) async fn alias_delete(mut call: KnownCall<'_>) -> Result<Response, Error> {
    if call.known.caller.is_alias {
        return Err(Error::Forbidden("An alias cannot delete aliases"));
    }
    let request::Alias { alias } = call.call.json().await?;
    let admin = Admin::DeleteAlias { owner: call.known.caller.entity.id, alias: id_or_hash(&alias) };
    call.call.app.service.administer(admin, call.call.deadline()).await?;
    Ok(json(&response::Status { status: "ok".to_owned() }))
}

/// `GET /alias/list`.
pub(crate) async fn alias_list(call: KnownCall<'_>) -> Result<Response, Error> {
    let aliases = match subject_of(&call.known) {
        Subject::Root => Vec::new(),
        Subject::Key(which) => {
            let entity = call.call.app.service.entity(&which, call.call.deadline()).await?;
            entity.aliases.iter().map(ToString::to_string).collect()
        }
    };
    Ok(json(&response::Aliases { aliases }))
}

/// `POST /admin/api/create`.
pub(crate) async fn admin_create(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::CreateKey { key_name, expires_at } = call.call.json().await?;
    if !(1..=bounds::KEY_NAME_BYTES_MAX).contains(&key_name.len()) {
        return Err(Error::invalid(format!("Field `key_name` must have 1 to {} bytes", bounds::KEY_NAME_BYTES_MAX)));
    }
    let expires_at_unix_ms = expires_at.map(|text| parse_time(&text)).transpose()?;
    let env = &*call.call.app.env;
    let key = new_key(env);
    let id = ApiKeyId(new_id(env));
    let admin = Admin::CreateKey {
        id,
        scope: ScopeId(new_id(env)),
        hash: caller::hash(&key),
        name: key_name.clone(),
        limits: Limits::default(),
        expires_at_unix_ms,
    };
    call.call.app.service.administer(admin, call.call.deadline()).await?;
    Ok(json(&response::CreatedKey { key_name, key, key_uuid: id.to_string() }))
}

/// `POST /admin/api/delete`.
pub(crate) async fn admin_delete(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let which: request::WhichKey = call.call.json().await?;
    let which = match subject(&call, which.key, which.key_uuid, KEY_NAMES)? {
        Subject::Root => return Err(Error::Forbidden("The root key cannot be deleted")),
        Subject::Key(which) => which,
    };
    call.call.app.service.administer(Admin::DeleteKey(which), call.call.deadline()).await?;
    Ok(json(&response::Deleted { success: "true".to_owned() }))
}

/// `POST /admin/limits/set`.
pub(crate) async fn admin_limits_set(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::SetLimits { api_key, key_uuid, limits } = call.call.json().await?;
    let patch = LimitsPatch {
        bytes_on_disk: limit("bytes_on_disk", limits.bytes_on_disk)?,
        bytes_in_memory: limit("bytes_in_memory", limits.bytes_in_memory)?,
        rate_per_second_data_limit: limit("rate_per_second_data_limit", limits.rate_per_second_data_limit)?,
    };
    let which = match subject(&call, api_key, key_uuid, API_KEY_NAMES)? {
        Subject::Root => return Err(Error::Forbidden("The root key has no limits")),
        Subject::Key(which) => which,
    };
    call.call.app.service.administer(Admin::SetLimits(which, patch), call.call.deadline()).await?;
    Ok(Response::new(Body::empty()))
}

/// `POST /admin/limits/get`.
pub(crate) async fn admin_limits_get(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let which: request::WhichKey = call.call.json().await?;
    let subject = subject(&call, which.key, which.key_uuid, API_KEY_NAMES)?;
    let both = call.call.app.service.both(call.call.deadline()).await?;
    Ok(json(&described(&call, &both, &subject)?.usage))
}

/// `POST /admin/insight/entity`.
pub(crate) async fn admin_entity(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let which: request::WhichKey = call.call.json().await?;
    let subject = subject(&call, which.key, which.key_uuid, ROOT_API_KEY_NAMES)?;
    let both = call.call.app.service.both(call.call.deadline()).await?;
    Ok(json(&response::OneEntity { entity: described(&call, &both, &subject)? }))
}

/// `POST /admin/insight/entities`.
pub(crate) async fn admin_entities(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::Entities { offset, limit } = call.call.json_or_default().await?;
    let limit = limit.unwrap_or(bounds::PAGE_KEYS_DEFAULT.into());
    let limit = u32::try_from(limit).ok().filter(|limit| (1..=bounds::PAGE_KEYS_MAX).contains(limit));
    let limit = limit.ok_or_else(|| Error::invalid(format!("Field `limit` must be 1 to {}", bounds::PAGE_KEYS_MAX)))?;
    let both = call.call.app.service.both(call.call.deadline()).await?;
    let entities = both.entities(offset, limit)?;
    let entities = entities.into_iter().map(|entity| describe(&both, entity)).collect::<Result<_, _>>()?;
    Ok(json(&response::Entities { entities }))
}

/// `POST /admin/insight/entity_by_alias`.
pub(crate) async fn admin_entity_by_alias(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::Alias { alias } = call.call.json().await?;
    let both = call.call.app.service.both(call.call.deadline()).await?;
    let entity = both.entity_by_alias(&id_or_hash(&alias))?;
    Ok(json(&response::OneEntity { entity: describe(&both, entity)? }))
}

/// `GET /admin/metrics/ops`.
pub(crate) fn admin_ops(call: &KnownCall<'_>) -> Response {
    json(&call.call.app.metrics.ops())
}

/// Whom an operator means.
enum Subject {
    Root,
    Key(KeyRef),
}

fn subject_of(known: &caller::Known) -> Subject {
    if known.is_root() { Subject::Root } else { Subject::Key(KeyRef::Id(known.caller.entity.id)) }
}

/// Exactly one of the key's text and its public id.
fn subject(call: &KnownCall<'_>, key: Option<String>, key_uuid: Option<String>, names: &str) -> Result<Subject, Error> {
    match (key, key_uuid) {
        (Some(key), None) if call.call.app.callers.is_root(&key) => Ok(Subject::Root),
        (Some(key), None) => Ok(Subject::Key(KeyRef::Hash(caller::hash(&key)))),
        (None, Some(uuid)) => match Uuid::try_parse(&uuid).map(ApiKeyId) {
            Ok(ApiKeyId::ROOT) => Ok(Subject::Root),
            Ok(id) => Ok(Subject::Key(KeyRef::Id(id))),
            Err(_) => Err(Error::invalid("Field `key_uuid` must be a UUID")),
        },
        (Some(_), Some(_)) => Err(Error::invalid(format!("Give the key or its `key_uuid`, not both: {names}"))),
        (None, None) => Err(Error::invalid(format!("The key is missing: give {names}"))),
    }
}

fn described(call: &KnownCall<'_>, both: &Both, subject: &Subject) -> Result<response::Entity, Error> {
    match subject {
        Subject::Key(which) => describe(both, both.entity(which)?),
        Subject::Root => {
            let mut root = describe(both, call.known.caller.entity.clone())?;
            root.usage.max_limits = response::MaxLimits::default();
            Ok(root)
        }
    }
}

fn describe(both: &Both, entity: Entity) -> Result<response::Entity, Error> {
    let usage = response::Limits { usage: both.usage(entity.scope)?, max_limits: max_limits(entity.limits) };
    Ok(response::Entity {
        key_name: entity.name,
        key_uuid: entity.id.to_string(),
        data_scope_uuid: entity.scope.to_string(),
        aliases: entity.aliases.iter().map(ToString::to_string).collect(),
        expires_at: entity.expires_at_unix_ms.map(format_time),
        usage,
    })
}

fn max_limits(limits: Limits) -> response::MaxLimits {
    response::MaxLimits {
        bytes_on_disk: Some(limits.bytes_on_disk),
        bytes_in_memory: Some(limits.bytes_in_memory),
        rate_per_second_data_limit: Some(limits.rate_per_second_data_limit),
    }
}

fn limit(name: &str, value: Option<i64>) -> Result<Option<u64>, Error> {
    value.map(u64::try_from).transpose().map_err(|_| Error::invalid(format!("Field `limits.{name}` must be 0 or more")))
}

/// An alias's text never parses as a UUID: it begins with [`KEY_PREFIX`].
fn id_or_hash(alias: &str) -> KeyRef {
    match Uuid::try_parse(alias) {
        Ok(id) => KeyRef::Id(ApiKeyId(id)),
        Err(_) => KeyRef::Hash(caller::hash(alias)),
    }
}

fn new_key(env: &dyn Env) -> String {
    let random: [u8; KEY_RANDOM_BYTES] = random_bytes(env);
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

fn new_id(env: &dyn Env) -> Uuid {
    uuid::Builder::from_random_bytes(random_bytes(env)).into_uuid()
}

/// RFC 3339, to milliseconds since the Unix epoch; a time before the epoch is as good as the epoch.
fn parse_time(text: &str) -> Result<u64, Error> {
    // jiff also takes a blank for the `T`, and annotations in brackets: those are not RFC 3339 as its ABNF has it.
    let looks_right = text.is_ascii() && matches!(text.as_bytes().get(10), Some(b'T' | b't')) && !text.ends_with(']');
    let time = looks_right.then(|| text.parse::<jiff::Timestamp>().ok()).flatten();
    let time =
        time.ok_or_else(|| Error::invalid("Field `expires_at` must be an RFC 3339 time: 2030-01-31T12:00:00Z"))?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

fn format_time(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(unix_ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// For people: `3h 12m 5s`, without the leading units that are 0.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let units = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")];
    let begin = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    units[begin..].iter().map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn json(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("a struct of text and numbers always serializes");
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:01Z", Some(1_000)),
            ("2030-01-31T12:00:00.5+01:00", Some(1_896_087_600_500)),
            ("1969-12-31T23:59:59Z", Some(0)),
            ("2030-01-31", None),
            ("2030-01-31T12:00:00", None),
            ("2030-01-31 12:00:00Z", None),
            ("2030-02-30T12:00:00Z", None),
            ("2030-01-31T12:00:00+01:00[Europe/Rome]", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text).ok(), unix_ms, "{text}");
        }
        assert_eq!(format_time(1_000), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn uptime_is_for_people() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (11_525, "3h 12m 5s"), (90_000, "1d 1h 0m 0s")] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
