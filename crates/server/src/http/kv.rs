//! The data operations: one set of handlers for both stores, with the [`Keyspace`] as a parameter.

use std::{borrow::Cow, str::FromStr, sync::Arc, time::Duration};

use api::{header, request};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use state::{
    bounds,
    command::{Condition, Write},
    ids::Keyspace,
    kv::{Key, Page, PageStart},
    query::Stored,
};

use crate::{
    http::{
        App, KnownCall,
        error::Error,
        long::{LongTexts, json_bytes},
        page,
        pool::{self, Holdings},
        query::{Query, agree},
        router::IterateForm,
    },
    service::{self, Consistency, Written},
};

static REVISION: HeaderName = HeaderName::from_static(header::REVISION);
static STALENESS_MS: HeaderName = HeaderName::from_static(header::STALENESS_MS);

/// get with the key in the URL.
pub(crate) async fn get(call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    let query = call.call.query()?;
    let key = query.text("key")?.ok_or_else(missing_key)?;
    let key = call.call.key(key)?;
    read(call, keyspace, consistency(&query)?, &key).await
}

/// get with the key in the body, for keys that no URL can hold.
pub(crate) async fn get_by_body(mut call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    let key = key_in_either(&mut call).await?;
    let consistency = consistency(&call.call.query()?)?;
    read(call, keyspace, consistency, &key).await
}

async fn read(
    mut call: KnownCall<'_>,
    keyspace: Keyspace,
    consistency: Consistency,
    key: &Key,
) -> Result<Response, Error> {
    let staleness = staleness(&call, keyspace, consistency)?;
    let reader = call.call.app.service.reader(keyspace, consistency, call.call.deadline()).await?;
    // Behind the view: a caller that is valid now sees nothing that was written after it was not.
    call.renew_caller()?;
    let stored = reader.get(call.known.scope(), key)?.ok_or(service::Error::KeyNotFound)?;
    let revision = stored.revision();
    let mut response = found(call.call.app, call.holdings(), stored).await?;
    add_revision(&mut response, revision);
    add_staleness(&mut response, staleness);
    Ok(response)
}

/// set.
pub(crate) async fn set(call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    put(call, keyspace, Condition::Always).await
}

/// setnx.
pub(crate) async fn set_if_absent(call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    put(call, keyspace, Condition::Absent).await
}

async fn put(mut call: KnownCall<'_>, keyspace: Keyspace, condition: Condition) -> Result<Response, Error> {
    let request::Set { key, value } = call.call.json().await?;
    let key = written_key(&call, key)?;
    let value = call.call.value(value)?;
    write(&mut call, keyspace, Write::Put { key, value, condition }).await.map(done)
}

/// cas.
pub(crate) async fn compare_and_swap(mut call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    let request::CompareAndSwap { key, old_value, new_value } = call.call.json().await?;
    let key = written_key(&call, key)?;
    let condition = Condition::ValueIs(call.call.value(old_value)?);
    let value = call.call.value(new_value)?;
    write(&mut call, keyspace, Write::Put { key, value, condition }).await.map(done)
}

/// delete, with the key in the URL or in the body.
pub(crate) async fn delete(mut call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    let key = key_in_either(&mut call).await?;
    write(&mut call, keyspace, Write::Delete { key, condition: Condition::Always }).await.map(done)
}

/// bump.
pub(crate) async fn bump(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::Bump { key, value } = call.call.json().await?;
    let key = written_key(&call, key)?;
    let delta = i64::from_str(&value).map_err(|_| service::Error::NotAnInteger)?;
    let written = write(&mut call, Keyspace::Values, Write::Bump { key, delta }).await?;
    let sum = written.sum.ok_or_else(|| service::Error::Internal("a bump was answered without its sum".to_owned()))?;
    let mut response = data(call.call.app, call.holdings(), &sum.to_string())?;
    add_revision(&mut response, written.revision);
    Ok(response)
}

/// Every write's way into the log, in this order: the store, then the caller once more, then the write.
///
/// The state of the cache group knows no keys, and the body may have taken long enough for the key to be deleted, its
/// data removed, and a new generation begun that has never heard of the scope. So the group is taken first: a deletion
/// acknowledged before the second look is answered 401 here, and one acknowledged after it goes on to close the scope
/// in this very group, unless the group has ended; either way nothing of the write stays. The write also says up to where
/// this node knew of keys and limits before it looked: a change that is acknowledged while the write is on its way has the
/// group refuse it. The Value Store's state knows the keys itself, and refuses those that are gone.
async fn write(call: &mut KnownCall<'_>, keyspace: Keyspace, write: Write) -> Result<Written, Error> {
    let service = &call.call.app.service;
    let store = service.store(keyspace)?;
    let control_index = service.control_index();
    call.renew_caller()?;
    Ok(store.write(&call.known.caller, control_index, write, call.call.deadline()).await?)
}

/// iterate with its parameters in the URL.
pub(crate) async fn iterate(call: KnownCall<'_>, keyspace: Keyspace, form: IterateForm) -> Result<Response, Error> {
    let query = call.call.query()?;
    respond_page(call, keyspace, form, &query, request::Iterate::default()).await
}

/// iterate with its parameters in the body, for prefixes that no URL can hold.
pub(crate) async fn iterate_by_body(mut call: KnownCall<'_>, keyspace: Keyspace) -> Result<Response, Error> {
    let in_body = call.call.json_or_default().await?;
    let query = call.call.query()?;
    respond_page(call, keyspace, IterateForm::Plain, &query, in_body).await
}

async fn respond_page(
    mut call: KnownCall<'_>,
    keyspace: Keyspace,
    form: IterateForm,
    query: &Query<'_>,
    in_body: request::Iterate,
) -> Result<Response, Error> {
    let consistency = consistency(query)?;
    let page = parse_page(query, in_body, form, call.known.is_root())?;
    let staleness = staleness(&call, keyspace, consistency)?;
    let reader = call.call.app.service.reader(keyspace, consistency, call.call.deadline()).await?;
    call.renew_caller()?;
    let request = page::Request { reader, scope: call.known.scope(), holdings: call.holdings(), page, form };
    let mut response = page::respond(call.call.app, request, call.call.deadline()).await?;
    add_staleness(&mut response, staleness);
    Ok(response)
}

fn parse_page(query: &Query<'_>, in_body: request::Iterate, form: IterateForm, is_root: bool) -> Result<Page, Error> {
    let prefix = agree("prefix", query.text("prefix")?.map(str::to_owned), in_body.prefix)?.unwrap_or_default();
    let offset = agree("offset", query.number("offset")?, in_body.offset)?.unwrap_or(0);
    let limit = agree("limit", query.number("limit")?, in_body.limit)?.unwrap_or(bounds::PAGE_KEYS_DEFAULT.into());
    let after = agree("after", query.text("after")?.map(str::to_owned), in_body.after)?;
    let prefix = match form {
        IterateForm::Plain if prefix.is_empty() && !is_root => {
            return Err(Error::invalid("Parameter `prefix` is missing or empty"));
        }
        IterateForm::Plain => prefix,
        IterateForm::LegacyArray | IterateForm::LegacyData => {
            prefix.strip_suffix('*').map(str::to_owned).unwrap_or(prefix)
        }
    };
    let start = match after {
        Some(_) if offset != 0 => return Err(Error::invalid("Parameter `after` goes with `offset` 0 alone")),
        Some(after) => PageStart::After(after.into_bytes()),
        None => PageStart::Offset(offset),
    };
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    Page::new(prefix, start, limit)
        .ok_or_else(|| Error::invalid(format!("Parameter `limit` must be 1 to {}", bounds::PAGE_KEYS_MAX)))
}

/// The key of a body that also holds a value; a `key` in the URL must be the same.
fn written_key(call: &KnownCall<'_>, in_body: String) -> Result<Key, Error> {
    let query = call.call.query()?;
    agree("key", query.text("key")?, Some(in_body.as_str()))?;
    call.call.key(in_body)
}

/// The key, from the URL or from the body.
async fn key_in_either(call: &mut KnownCall<'_>) -> Result<Key, Error> {
    let query = call.call.query()?;
    let in_query = query.text("key")?.map(Cow::Borrowed);
    let body = call.call.text().await?;
    let in_body = if body.is_empty() {
        None
    } else {
        // With a key in the URL, a body need not repeat it; what it says must still be well formed.
        let optional: OptionalKey = call.call.app.parse(body).await?;
        if optional.key.is_none() && in_query.is_none() {
            return Err(Error::invalid("Field `key` is missing"));
        }
        optional.key.map(Cow::Owned)
    };
    let key = agree("key", in_query, in_body)?.ok_or_else(missing_key)?;
    call.call.key(key)
}

/// A body whose key may stand in the URL instead.
#[derive(serde::Deserialize)]
struct OptionalKey {
    #[serde(default, deserialize_with = "api::request::present")]
    key: Option<String>,
}

fn missing_key() -> Error {
    Error::invalid("Parameter `key` is missing")
}

/// Which state a read asks for.
fn consistency(query: &Query<'_>) -> Result<Consistency, Error> {
    match query.text("consistency")? {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("stale") => Ok(Consistency::Stale),
        Some(_) => Err(Error::invalid("Parameter `consistency` must be `linearizable` or `stale`")),
    }
}

/// Only text comes in over HTTP, so only text is stored.
fn text(stored: &[u8]) -> Result<&str, service::Error> {
    std::str::from_utf8(stored).map_err(|_| service::Error::Internal("a stored value is not UTF-8".to_owned()))
}

/// What `data` stands in.
const DATA: (&[u8], &[u8]) = (b"{\"data\":", b"}");

/// `{"data":…}` of what was found.
async fn found(app: &App, holdings: Option<Arc<Holdings>>, stored: Stored) -> Result<Response, Error> {
    let value_bytes = stored.value().len();
    if !LongTexts::is_long(value_bytes) {
        return data(app, holdings, text(stored.value())?);
    }
    // Where there is no room for it, it is not looked at, and not written, first.
    let mut room = pool::room_for_answer(&app.answer_bytes, holdings, value_bytes)?;
    let write = move || {
        let text = text(stored.value())?;
        let bytes = DATA.0.len() + json_bytes(text) + DATA.1.len();
        room.grow_to(bytes)?;
        Ok(room.hold(written(text, bytes)))
    };
    app.long_texts.work(value_bytes, write).await.map(as_json)
}

/// `{"data":…}`, written straight from the stored text.
fn data(app: &App, holdings: Option<Arc<Holdings>>, text: &str) -> Result<Response, Error> {
    let json = written(text, text.len() + 16);
    Ok(as_json(pool::count_answer(&app.answer_bytes, holdings, json)?))
}

fn written(text: &str, capacity: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(capacity);
    json.extend_from_slice(DATA.0);
    serde_json::to_writer(&mut json, text).expect("text always serializes, and memory takes every write");
    json.extend_from_slice(DATA.1);
    json
}

fn as_json(json: Bytes) -> Response {
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a write that has nothing to say but that it was done.
fn done(written: Written) -> Response {
    let mut response = Response::new(Body::empty());
    add_revision(&mut response, written.revision);
    response
}

fn add_revision(response: &mut Response, revision: u64) {
    response.headers_mut().insert(REVISION.clone(), revision.into());
}

/// A single node is its own leader: its last word from it is never old.
/// For a stale read, how old at most what it is about to see is.
fn staleness(call: &KnownCall<'_>, keyspace: Keyspace, consistency: Consistency) -> Result<Option<Duration>, Error> {
    match consistency {
        Consistency::Linearizable => Ok(None),
        Consistency::Stale => Ok(Some(call.call.app.service.staleness(keyspace)?)),
    }
}

fn add_staleness(response: &mut Response, staleness: Option<Duration>) {
    if let Some(staleness) = staleness {
        let age_ms = u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(STALENESS_MS.clone(), age_ms.into());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn page(query: &str, form: IterateForm, is_root: bool) -> Result<Page, String> {
        let query = Query::parse(Some(query)).unwrap();
        parse_page(&query, request::Iterate::default(), form, is_root)
            .map_err(|error| error.describe().text.into_owned())
    }

    fn expected(prefix: &str, start: PageStart, limit: u32) -> Result<Page, String> {
        Ok(Page::new(prefix, start, limit).unwrap())
    }

    #[test]
    fn pages_are_parsed_by_the_rules_of_their_form() {
        use IterateForm::{LegacyArray, LegacyData, Plain};
        let missing = || Err("Parameter `prefix` is missing or empty".to_owned());
        let limit = || Err("Parameter `limit` must be 1 to 1000".to_owned());
        let offset = PageStart::Offset;
        for (query, form, is_root, wanted) in [
            ("prefix=a", Plain, false, expected("a", offset(0), 100)),
            ("prefix=a*&offset=2&limit=1000", Plain, false, expected("a*", offset(2), 1000)),
            ("prefix=a*", LegacyArray, false, expected("a", offset(0), 100)),
            ("prefix=a**", LegacyData, false, expected("a*", offset(0), 100)),
            ("", LegacyData, false, expected("", offset(0), 100)),
            ("prefix=*", LegacyData, false, expected("", offset(0), 100)),
            ("", Plain, true, expected("", offset(0), 100)),
            ("prefix=a&after=ab&offset=0", Plain, false, expected("a", PageStart::After(b"ab".to_vec()), 100)),
            ("", Plain, false, missing()),
            ("prefix=", Plain, false, missing()),
            ("prefix=a&limit=0", Plain, false, limit()),
            ("prefix=a&limit=1001", Plain, false, limit()),
            ("prefix=a&limit=4294967297", Plain, false, limit()),
            ("prefix=a&limit=-1", Plain, false, Err("Parameter `limit` must be a whole number, 0 or more".to_owned())),
            ("prefix=a&offset=x", Plain, false, Err("Parameter `offset` must be a whole number, 0 or more".to_owned())),
            ("prefix=a&after=b&offset=1", Plain, false, Err("Parameter `after` goes with `offset` 0 alone".to_owned())),
            ("prefix=a&prefix=a", Plain, false, Err("Parameter `prefix` is given twice".to_owned())),
        ] {
            assert_eq!(page(query, form, is_root), wanted, "{query}");
        }
    }

    #[test]
    fn query_and_body_must_agree() {
        let query = Query::parse(Some("prefix=a&limit=5")).unwrap();
        let in_body = |prefix: &str| request::Iterate { prefix: Some(prefix.to_owned()), ..Default::default() };
        assert_eq!(
            parse_page(&query, in_body("a"), IterateForm::Plain, false).unwrap(),
            Page::new("a", PageStart::Offset(0), 5).unwrap()
        );
        let error = parse_page(&query, in_body("b"), IterateForm::Plain, false).unwrap_err();
        assert_eq!(error.describe().text, "`prefix` differs between the query and the body");
    }
}
