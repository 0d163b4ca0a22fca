//! What every request passes, in this order, whatever it asks for:
//!
//! 1. an id, and, but for probes, a place among the requests in flight (503), of which operators have their own;
//! 2. its client's address: permitted (403)? within its rate (429)?
//! 3. a path (404) and a method (405) of the table;
//! 4. a caller (401, 403) who leaves others their places (503), with a token (429): until here nothing of the body is read,
//!    and no store is asked;
//! 5. the handler, behind a guard that turns a panic into 500;
//! 6. the rest of the body, the headers that every answer has, one event in the log, one count in the metrics.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use api::{code::Code, header};
use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{CONNECTION, CONTENT_LENGTH, LOCATION},
        request::Parts,
    },
    response::Response,
};
use futures_util::{FutureExt, future::BoxFuture};
use hyper::body::Body as _;
use state::ids::ApiKeyId;

use crate::{
    env::monotonic_ns,
    http::{
        App, Call, KnownCall,
        body::Payload,
        caller::Known,
        cluster,
        error::Error,
        health, keys, kv,
        pool::Part,
        router::{Class, Operation, Path, Permission, Route},
    },
    service,
};

static REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
static CACHE_GENERATION: HeaderName = HeaderName::from_static(header::CACHE_GENERATION);

/// Serves one request, whose connection is `peer`'s.
pub(crate) async fn serve(app: &App, path: Option<&Path>, peer: IpAddr, request: Request<Body>) -> Response {
    let start = Instant::now();
    let (parts, body) = request.into_parts();
    let number = app.requests.fetch_add(1, Ordering::Relaxed);
    let mut payload = Payload::new(&parts.headers, body, &app.body_bytes);
    let class = path.map_or(Class::System, Path::class);
    let mut event = Event { app, number, class, path, parts: &parts, caller: None, start, answered: false };

    let answered = guard(walk(app, path, peer, &parts, &mut payload, &mut event.caller)).await;
    let mut response = answered.unwrap_or_else(|error| refuse(&error, &parts));
    if !payload.settle().await {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    finish(app, class, number, &parts.method, &mut response);
    event.record(&payload, &response);
    response
}

/// Turns a panic into an error: a bug costs its own request, never the connection's others or the node. No `async fn`: it
/// would hold `walk` twice, as what it was given and as what it waits for.
fn guard(walk: impl Future<Output = Result<Response, Error>>) -> impl Future<Output = Result<Response, Error>> {
    AssertUnwindSafe(walk).catch_unwind().map(|walked| walked.unwrap_or(Err(Error::Panicked)))
}

/// Steps 1 to 5.
async fn walk(
    app: &App,
    path: Option<&Path>,
    peer: IpAddr,
    parts: &Parts,
    payload: &mut Payload,
    caller: &mut Option<ApiKeyId>,
) -> Result<Response, Error> {
    // An overloaded node is alive, and its metrics are never wanted more.
    let mut place = match path {
        Some(path) if path.is_probe() => None,
        Some(path) if path.is_private() => Some(Part::new(&app.operator_places, None)),
        Some(_) | None => Some(Part::new(&app.places, None)),
    };
    if let Some(place) = &mut place {
        place.add(1)?;
    }
    let client = app.addresses.client(peer, &parts.headers);
    app.addresses.admit(client)?;
    let class = path.map_or(Class::System, Path::class);
    app.addresses.take(client, class)?;
    let path = path.ok_or(Error::RouteNotFound)?;
    let row = path.row(&parts.method).ok_or_else(|| Error::MethodNotAllowed(path.allow()))?;
    let known = identify(app, row, &parts.headers)?;
    let call = Call { app, uri: &parts.uri, payload };
    match known {
        None => Box::pin(health::serve(app, row.operation)).await,
        Some(known) => {
            *caller = Some(known.caller.id);
            if let (Some(place), Some(holdings)) = (&mut place, known.holdings()) {
                place.charge_to(holdings.clone())?;
                call.payload.charge_to(holdings.clone())?;
            }
            if row.class != Class::System {
                known.take_token(monotonic_ns(&*app.env))?;
            }
            operate(row.operation, KnownCall { call, known }).await
        }
    }
}

/// Who calls, when the row wants to know.
fn identify(app: &App, row: &Route, headers: &HeaderMap) -> Result<Option<Arc<Known>>, Error> {
    match row.permission {
        Permission::Open => Ok(None),
        Permission::AnyKey => app.callers.authenticate(headers, &app.service).map(Some),
        Permission::RootAnytime if app.callers.presents_root(headers)? => Ok(Some(app.callers.root())),
        Permission::Root | Permission::RootAnytime => match app.callers.authenticate(headers, &app.service)? {
            known if known.is_root() => Ok(Some(known)),
            _ => Err(Error::Unauthorized("This route takes the root key alone")),
        },
    }
}

/// A future is as large as the largest of those that it may wait for, and is moved as a whole, more than once: what is larger
/// than get is in a box of its own.
async fn operate(operation: Operation, call: KnownCall<'_>) -> Result<Response, Error> {
    let boxed: BoxFuture<'_, Result<Response, Error>> = match operation {
        Operation::Get(keyspace) => return kv::get(call, keyspace).await,
        Operation::GetByBody(keyspace) => Box::pin(kv::get_by_body(call, keyspace)),
        Operation::Set(keyspace) => Box::pin(kv::set(call, keyspace)),
        Operation::SetIfAbsent(keyspace) => Box::pin(kv::set_if_absent(call, keyspace)),
        Operation::CompareAndSwap(keyspace) => Box::pin(kv::compare_and_swap(call, keyspace)),
        Operation::Delete(keyspace) => Box::pin(kv::delete(call, keyspace)),
        Operation::Bump => Box::pin(kv::bump(call)),
        Operation::Ping => return keys::ping(&call),
        Operation::AdminOps => return Ok(keys::admin_ops(&call)),
        Operation::Iterate(keyspace, form) => Box::pin(kv::iterate(call, keyspace, form)),
        Operation::IterateByBody(keyspace) => Box::pin(kv::iterate_by_body(call, keyspace)),
        Operation::Limits => Box::pin(keys::limits(call)),
        Operation::AliasCreate => Box::pin(keys::alias_create(call)),
        Operation::AliasDelete => Box::pin(keys::alias_delete(call)),
        Operation::AliasList => Box::pin(keys::alias_list(call)),
        Operation::AdminCreate => Box::pin(keys::admin_create(call)),
        Operation::AdminDelete => Box::pin(keys::admin_delete(call)),
        Operation::AdminLimitsSet => Box::pin(keys::admin_limits_set(call)),
        Operation::AdminLimitsGet => Box::pin(keys::admin_limits_get(call)),
        Operation::AdminEntity => Box::pin(keys::admin_entity(call)),
        Operation::AdminEntities => Box::pin(keys::admin_entities(call)),
        Operation::AdminEntityByAlias => Box::pin(keys::admin_entity_by_alias(call)),
        Operation::ClusterStatus => Box::pin(cluster::status(call)),
        Operation::ClusterAdd => Box::pin(cluster::add(call)),
        Operation::ClusterRemove => Box::pin(cluster::remove(call)),
        Operation::ClusterTransfer => Box::pin(cluster::transfer(call)),
        Operation::Live | Operation::Ready | Operation::Metrics => Box::pin(health::serve(call.call.app, operation)),
    };
    boxed.await
}

/// The answer to an error; one that nobody but the node can explain is logged with its reason.
fn refuse(error: &Error, parts: &Parts) -> Response {
    if let Error::Service(service::Error::Internal(reason)) = error {
        tracing::error!(reason, "request failed");
    }
    let mut response = error.respond(&parts.headers);
    if let Error::Service(service::Error::Redirect(base)) = error {
        let rest = parts.uri.path_and_query().map_or("/", |rest| rest.as_str());
        // A leader whose URL no header can hold is told of without it.
        if let Ok(url) = HeaderValue::from_str(&format!("{}{rest}", base.trim_end_matches('/'))) {
            response.headers_mut().insert(LOCATION, url);
        }
    }
    response
}

/// A request's id, as 16 hex digits.
fn request_id(number: u64) -> HeaderValue {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 0xf];
    }
    HeaderValue::from_bytes(&digits).expect("hex digits are a header value")
}

/// What every answer has.
fn finish(app: &App, class: Class, number: u64, method: &Method, response: &mut Response) {
    response.headers_mut().insert(REQUEST_ID.clone(), request_id(number));
    if class == Class::Cache
        && !response.headers().contains_key(header::CACHE_GENERATION)
        && let Some(cache) = app.service.cache()
    {
        response.headers_mut().insert(CACHE_GENERATION.clone(), cache.generation.into());
    }
    if *method == Method::HEAD {
        if let Some(bytes) = response.body().size_hint().exact() {
            response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
        }
        *response.body_mut() = Body::empty();
    }
}

/// What the log and the metrics call the end of a request whose client left before its answer. What it asked for may
/// have been done.
const ABANDONED_STATUS: u16 = 499;

/// The one event of a request. It holds no query, no header, no body. Dropped before it is recorded, it says that the
/// client has left: nothing that was asked for goes without a trace.
struct Event<'a> {
    app: &'a App,
    number: u64,
    class: Class,
    path: Option<&'a Path>,
    parts: &'a Parts,
    caller: Option<ApiKeyId>,
    start: Instant,
    answered: bool,
}

impl Event<'_> {
    fn record(mut self, payload: &Payload, response: &Response) {
        self.answered = true;
        let status = response.status();
        let code = response.extensions().get::<Code>().copied();
        let took = self.start.elapsed();
        self.app.metrics.observe_request(self.class, status.as_u16(), code, took);
        let code = code.map(Code::as_str);
        let method = method_name(&self.parts.method);
        let route = self.path.map_or("unknown", Path::text);
        let bytes_in = payload.bytes_read();
        let bytes_out = response.body().size_hint().exact();
        let duration_us = micros(took);
        let caller = self.caller.as_ref().map(tracing::field::display);
        let request_id = format_args!("{:016x}", self.number);
        let status = status.as_u16();
        if status == 500 {
            tracing::error!(
                method, route, status, code, bytes_in, bytes_out, duration_us, caller, %request_id, "request"
            );
        } else {
            tracing::info!(
                method, route, status, code, bytes_in, bytes_out, duration_us, caller, %request_id, "request"
            );
        }
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let took = self.start.elapsed();
        self.app.metrics.observe_request(self.class, ABANDONED_STATUS, None, took);
        let method = method_name(&self.parts.method);
        let route = self.path.map_or("unknown", Path::text);
        let duration_us = micros(took);
        let caller = self.caller.as_ref().map(tracing::field::display);
        let request_id = format_args!("{:016x}", self.number);
        tracing::info!(method, route, status = ABANDONED_STATUS, duration_us, caller, %request_id, "request");
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// A method as the log shows it: any other token is the client's own text, of any length.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn future_bytes<'a, F: Future>(_: fn(&'a App, Option<&'a Path>, IpAddr, Request<Body>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_request_carries_with_it_stays_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 1_500, "{bytes}: what grew belongs into a box, see `operate`");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let panicking = guard(async { panic!("the reason is for the log alone") }).await;
        let answer = panicking.unwrap_err().respond(&HeaderMap::new());
        assert_eq!((answer.status().as_u16(), answer.extensions().get::<Code>()), (500, Some(&Code::Internal)));
        let refused = guard(async { Err(Error::RouteNotFound) }).await;
        assert!(matches!(refused, Err(Error::RouteNotFound)));
        assert_eq!(guard(async { Ok(Response::default()) }).await.unwrap().status().as_u16(), 200);
    }
}
