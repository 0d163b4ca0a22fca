//! Every answer that is not a success: the one place that maps errors to status, code, text and headers.

use std::borrow::Cow;

use api::{code::Code, header, response::Problem};
use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::Response,
};
use state::{ids::Keyspace, kv, outcome::Rejection};

use crate::{rate, service};

/// Why a request was not served.
#[derive(Debug)]
pub(crate) enum Error {
    /// The body is no JSON, or not of the shape that the route takes.
    MalformedBody(Cow<'static, str>),
    /// A parameter or field is missing, given twice, or not of its kind.
    Invalid(Cow<'static, str>),
    /// The key or the value is not within its bounds.
    Bound(kv::Invalid),
    /// An alias asks for an alias.
    AliasCannotCreate,
    /// No valid API key; why, without a word of the key.
    Unauthorized(&'static str),
    /// A valid API key that may not do this; why.
    Forbidden(&'static str),
    /// The client's address is outside `permitted_ips`.
    AddressForbidden,
    /// There is no such path on this listener.
    RouteNotFound,
    /// The path has other methods, as the `Allow` header lists them.
    MethodNotAllowed(String),
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body has a `Content-Encoding`.
    EncodedBody,
    /// The scope's rate limit.
    RateLimited(rate::Limited),
    /// The client address's rate limit.
    AddressRateLimited(rate::Limited),
    /// The node has as much in hand as it may have; nothing was proposed.
    Overloaded,
    /// A handler panicked: a bug.
    Panicked,
    /// The product's own answer.
    Service(service::Error),
}

/// What a client is told.
#[derive(Debug)]
pub(crate) struct Described {
    /// The stable code, which brings the status.
    pub(crate) code: Code,
    /// What happened, in a line.
    pub(crate) text: Cow<'static, str>,
}

impl Described {
    fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<service::Error> for Error {
    fn from(error: service::Error) -> Self {
        Self::Service(error)
    }
}

impl From<kv::Invalid> for Error {
    fn from(error: kv::Invalid) -> Self {
        Self::Bound(error)
    }
}

impl Error {
    /// 400 for a parameter or a field; the text must not hold what the client sent.
    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(text.into())
    }

    /// The code and the text of this error.
    pub(crate) fn describe(&self) -> Described {
        match self {
            Self::MalformedBody(text) => Described::new(Code::MalformedBody, text.clone()),
            Self::Invalid(text) => Described::new(Code::InvalidParameter, text.clone()),
            Self::Bound(kv::Invalid::EmptyKey) => Described::new(Code::KeyEmpty, "Key is empty"),
            Self::Bound(kv::Invalid::KeyTooLarge) => Described::new(Code::KeyTooLarge, "Key is too large"),
            Self::Bound(kv::Invalid::ValueTooLarge) => Described::new(Code::ValueTooLarge, "Value is too large"),
            Self::AliasCannotCreate => Described::new(Code::AliasCannotCreate, "An alias cannot create aliases"),
            Self::Unauthorized(why) => Described::new(Code::Unauthorized, *why),
            Self::Forbidden(why) => Described::new(Code::Forbidden, *why),
            Self::AddressForbidden => {
                Described::new(Code::AddressForbidden, "This address may not use this node (see permitted_ips)")
            }
            Self::RouteNotFound => Described::new(Code::RouteNotFound, "There is no such route"),
            Self::MethodNotAllowed(allowed) => {
                Described::new(Code::MethodNotAllowed, format!("This route takes {allowed}"))
            }
            Self::BodyTimeout => Described::new(Code::BodyTimeout, "The body did not arrive in time"),
            Self::EncodedBody => Described::new(Code::EncodedBody, "Send the body without a Content-Encoding"),
            Self::RateLimited(_) => Described::new(Code::RateLimited, "Rate limit exceeded"),
            Self::AddressRateLimited(_) => {
                Described::new(Code::AddressRateLimited, "Rate limit of this address exceeded")
            }
            Self::Overloaded => overloaded(),
            Self::Panicked => internal(),
            Self::Service(error) => describe_service(error),
        }
    }

    /// The answer to a request with these headers.
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response {
        let Described { code, text } = self.describe();
        let status = StatusCode::from_u16(code.status()).expect("every code's status is a valid one");
        let (content_type, body) = if wants_problem(request) {
            ("application/problem+json", problem(code, status, &text))
        } else {
            ("text/plain; charset=utf-8", text.into_owned().into_bytes())
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.extensions_mut().insert(code);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.add_headers(status, response.headers_mut());
        response
    }

    fn add_headers(&self, status: StatusCode, headers: &mut HeaderMap) {
        match self {
            Self::Unauthorized(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::MethodNotAllowed(allowed) => {
                let allowed = HeaderValue::from_str(allowed).expect("method names are visible ASCII");
                headers.insert(ALLOW, allowed);
            }
            Self::RateLimited(limited) | Self::AddressRateLimited(limited) => {
                headers.insert(RETRY_AFTER, limited.retry_after_s.into());
                headers.insert(HeaderName::from_static(header::RATE_LIMIT), limited.per_second.into());
                headers.insert(HeaderName::from_static(header::RATE_BURST), limited.per_second.into());
            }
            Self::Service(service::Error::Refused { rejection, keyspace, revision }) => {
                if let Some(revision) = *revision {
                    headers.insert(HeaderName::from_static(header::REVISION), revision.into());
                }
                add_quota(rejection, *keyspace, headers);
            }
            Self::Service(service::Error::KeyGone) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Overloaded | Self::Service(_) => {
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
            }
            Self::MalformedBody(_)
            | Self::Invalid(_)
            | Self::Bound(_)
            | Self::AliasCannotCreate
            | Self::Forbidden(_)
            | Self::AddressForbidden
            | Self::RouteNotFound
            | Self::BodyTimeout
            | Self::EncodedBody
            | Self::Panicked => {}
        }
    }
}

fn describe_service(error: &service::Error) -> Described {
    match error {
        service::Error::Refused { rejection, keyspace, .. } => describe_rejection(rejection, *keyspace),
        service::Error::KeyNotFound => Described::new(Code::KeyNotFound, "Key not found"),
        service::Error::ApiKeyNotFound => Described::new(Code::ApiKeyNotFound, "API key not found"),
        service::Error::KeyGone => Described::new(Code::Unauthorized, "The API key has been deleted"),
        service::Error::NotAnInteger => Described::new(Code::NotAnInteger, "Field `value` must be an integer as text"),
        service::Error::ClusterChangeRefused(reason) => Described::new(Code::ClusterChangeRefused, reason.clone()),
        service::Error::Redirect(_) => {
            Described::new(Code::LeaderElsewhere, "Another node leads; nothing was done, send the write there")
        }
        service::Error::NoLeader => {
            Described::new(Code::NoLeader, "No leader is known; nothing was done, try again shortly")
        }
        service::Error::NoQuorum => {
            Described::new(Code::NoQuorum, "The leader cannot reach a majority; nothing was done, try again shortly")
        }
        service::Error::Overloaded => overloaded(),
        service::Error::Fenced => Described::new(
            Code::Overloaded,
            "The API key or its limits are being changed; nothing was done, try again shortly",
        ),
        service::Error::DiskFull => Described::new(
            Code::DiskFull,
            "The disk of the node is full; nothing was done, and reads go on, in a cluster perhaps through another node",
        ),
        service::Error::MemoryFull => {
            Described::new(Code::MemoryFull, "The node's cache memory is full; nothing was done, and reads go on")
        }
        service::Error::OutcomeUnknown => Described::new(
            Code::OutcomeUnknown,
            "The outcome is unknown: the write may or may not have been done; read before writing again",
        ),
        service::Error::Internal(_) => internal(),
    }
}

fn describe_rejection(rejection: &Rejection, keyspace: Keyspace) -> Described {
    match rejection {
        Rejection::KeyExists => Described::new(Code::KeyExists, "Key already exists"),
        Rejection::ValueDiffers => Described::new(Code::ValueDiffers, "The stored value differs, or the key is absent"),
        Rejection::QuotaExceeded { .. } => match keyspace {
            Keyspace::Values => Described::new(Code::DiskQuotaExceeded, "Disk usage limit exceeded"),
            Keyspace::Cache => Described::new(Code::MemoryQuotaExceeded, "Memory usage limit exceeded"),
        },
        Rejection::NotAnInteger => Described::new(Code::NotAnInteger, "The stored value is not an integer"),
        Rejection::SumOutOfRange => {
            Described::new(Code::SumOutOfRange, "The sum is above the range of a 64-bit integer")
        }
        Rejection::ScopeGone | Rejection::KeyGone => Described::new(Code::Unauthorized, "The API key has been deleted"),
        Rejection::NoSuchKey => Described::new(Code::ApiKeyNotFound, "API key not found"),
        Rejection::NotItsAlias => Described::new(Code::Forbidden, "The alias belongs to another API key"),
        Rejection::TooManyAliases => Described::new(
            Code::TooManyAliases,
            format!("The API key has {} aliases, the most there may be", state::bounds::ALIASES_MAX),
        ),
        // The node drew an id badly, or sent a command to the wrong group: nothing that a client could do.
        Rejection::IdInUse
        | Rejection::NotReady
        | Rejection::RegistryConflict
        | Rejection::WrongGroup
        | Rejection::Fenced => internal(),
    }
}

fn overloaded() -> Described {
    Described::new(Code::Overloaded, "The node is overloaded; nothing was done, try again shortly")
}

fn internal() -> Described {
    Described::new(Code::Internal, "Internal error: the node's log has the reason")
}

fn add_quota(rejection: &Rejection, keyspace: Keyspace, headers: &mut HeaderMap) {
    if let Rejection::QuotaExceeded { used_bytes, quota_bytes } = rejection {
        let (used, quota) = match keyspace {
            Keyspace::Values => (header::CURRENT_DISK_USAGE, header::DISK_USAGE_LIMIT),
            Keyspace::Cache => (header::CURRENT_MEMORY_USAGE, header::MEMORY_USAGE_LIMIT),
        };
        headers.insert(HeaderName::from_static(used), (*used_bytes).into());
        headers.insert(HeaderName::from_static(quota), (*quota_bytes).into());
    }
}

fn problem(code: Code, status: StatusCode, detail: &str) -> Vec<u8> {
    let problem = Problem {
        r#type: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        code,
    };
    serde_json::to_vec(&problem).expect("a struct of text and numbers always serializes")
}

/// Whether `Accept` names JSON; a mere `*/*` does not.
fn wants_problem(request: &HeaderMap) -> bool {
    request.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |range| {
            let media_type = range.split(';').next().unwrap_or_default().trim();
            ["application/json", "application/problem+json"].iter().any(|json| media_type.eq_ignore_ascii_case(json))
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(rejection: Rejection, keyspace: Keyspace) -> Error {
        Error::Service(service::Error::Refused { rejection, keyspace, revision: Some(7) })
    }

    /// One line per error: status, code, text, and the headers that come with it.
    #[test]
    fn the_table() {
        let limited = rate::Limited { per_second: 25, retry_after_s: 1 };
        let quota = Rejection::QuotaExceeded { used_bytes: 9, quota_bytes: 10 };
        let errors = [
            Error::MalformedBody("The body is not JSON".into()),
            Error::invalid("Parameter `key` is missing"),
            kv::Invalid::EmptyKey.into(),
            kv::Invalid::KeyTooLarge.into(),
            kv::Invalid::ValueTooLarge.into(),
            refused(quota, Keyspace::Values),
            refused(quota, Keyspace::Cache),
            refused(Rejection::NotAnInteger, Keyspace::Values),
            Error::Unauthorized("Give an API key"),
            Error::Forbidden("No"),
            Error::RouteNotFound,
            Error::MethodNotAllowed("GET, HEAD".to_owned()),
            Error::EncodedBody,
            refused(Rejection::KeyExists, Keyspace::Cache),
            Error::RateLimited(limited),
            service::Error::Redirect("http://127.0.0.1:9".to_owned()).into(),
            service::Error::NoLeader.into(),
            service::Error::OutcomeUnknown.into(),
            service::Error::Internal("the reason".to_owned()).into(),
        ];
        let expected = "\
400 malformed_body The body is not JSON
400 invalid_parameter Parameter `key` is missing
400 key_empty Key is empty
400 key_too_large Key is too large
400 value_too_large Value is too large
400 disk_quota_exceeded Disk usage limit exceeded x-insidb-revision=7 x-current-disk-usage=9 x-disk-usage-limit=10
400 memory_quota_exceeded Memory usage limit exceeded x-insidb-revision=7 x-current-memory-usage=9 x-memory-usage-limit=10
400 not_an_integer The stored value is not an integer x-insidb-revision=7
401 unauthorized Give an API key www-authenticate=Bearer
403 forbidden No
404 route_not_found There is no such route
405 method_not_allowed This route takes GET, HEAD allow=GET, HEAD
415 encoded_body Send the body without a Content-Encoding
409 key_exists Key already exists x-insidb-revision=7
429 rate_limited Rate limit exceeded retry-after=1 x-ratelimit-limit=25 x-ratelimit-burst=25
307 leader_elsewhere Another node leads; nothing was done, send the write there
503 no_leader No leader is known; nothing was done, try again shortly retry-after=1
503 outcome_unknown The outcome is unknown: the write may or may not have been done; read before writing again retry-after=1
500 internal Internal error: the node's log has the reason
";
        let mut table = String::new();
        for error in errors {
            let response = error.respond(&HeaderMap::new());
            let Described { code, text } = error.describe();
            assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            table += &format!("{} {code} {text}", response.status().as_u16());
            for (name, value) in response.headers().iter().filter(|(name, _)| *name != CONTENT_TYPE) {
                table += &format!(" {name}={}", value.to_str().unwrap());
            }
            table.push('\n');
        }
        assert_eq!(table, expected);
    }

    #[test]
    fn accept_chooses_the_form() {
        for (accept, problem) in [
            ("*/*", false),
            ("text/plain", false),
            ("application/json", true),
            ("text/html, Application/Problem+JSON;q=0.9", true),
            ("application/jsonp", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wants_problem(&headers), problem, "{accept}");
        }
    }
}
