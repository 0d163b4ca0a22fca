//! Stable machine-readable error codes: the `code` of a problem document.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Why a request was not served. The text of a code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it is sent with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// The body is no JSON, or not of the shape that the route takes.
    MalformedBody = "malformed_body", 400;
    /// The bytes are no HTTP/1.1 request.
    MalformedRequest = "malformed_request", 400;
    /// A query parameter or field is missing, given twice, or not of its kind.
    InvalidParameter = "invalid_parameter", 400;
    /// The key is empty.
    KeyEmpty = "key_empty", 400;
    /// The key is over `max_value_size`.
    KeyTooLarge = "key_too_large", 400;
    /// The value, or the whole body, is over its bound.
    ValueTooLarge = "value_too_large", 400;
    /// The write would bring the scope over `bytes_on_disk`.
    DiskQuotaExceeded = "disk_quota_exceeded", 400;
    /// The write would bring the scope over `bytes_in_memory`.
    MemoryQuotaExceeded = "memory_quota_exceeded", 400;
    /// bump: the stored value or the increment is not an integer.
    NotAnInteger = "not_an_integer", 400;
    /// bump: the sum is above the range of a 64-bit integer.
    SumOutOfRange = "sum_out_of_range", 400;
    /// The entity key has as many aliases as it may have.
    TooManyAliases = "too_many_aliases", 400;
    /// Only an entity key may do this; the caller is an alias, creating one.
    AliasCannotCreate = "alias_cannot_create", 400;
    /// The API key is missing, malformed, unknown, deleted or expired.
    Unauthorized = "unauthorized", 401;
    /// A valid key that may not do this.
    Forbidden = "forbidden", 403;
    /// The client's address is outside `permitted_ips`.
    AddressForbidden = "address_forbidden", 403;
    /// The key does not exist in the store.
    KeyNotFound = "key_not_found", 404;
    /// The API key or alias does not exist.
    ApiKeyNotFound = "api_key_not_found", 404;
    /// There is no such route.
    RouteNotFound = "route_not_found", 404;
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The head of the request did not arrive in time; nothing was done.
    HeadTimeout = "head_timeout", 408;
    /// The request's body did not arrive in time; nothing was done.
    BodyTimeout = "body_timeout", 408;
    /// setnx: the key exists.
    KeyExists = "key_exists", 409;
    /// cas: the value differs, or the key is absent.
    ValueDiffers = "value_differs", 409;
    /// The URL is over 65,534 bytes.
    UrlTooLong = "url_too_long", 414;
    /// The body has a `Content-Encoding`.
    EncodedBody = "encoded_body", 415;
    /// The scope's rate limit.
    RateLimited = "rate_limited", 429;
    /// The client address's rate limit.
    AddressRateLimited = "address_rate_limited", 429;
    /// The headers are too large.
    HeadersTooLarge = "headers_too_large", 431;
    /// A bug or a failed disk.
    Internal = "internal", 500;
    /// No leader is known; nothing was done.
    NoLeader = "no_leader", 503;
    /// The leader cannot reach a majority; nothing was done.
    NoQuorum = "no_quorum", 503;
    /// The node has as much in hand as it may have; nothing was done.
    Overloaded = "overloaded", 503;
    /// The node's disk is full: it took no write, or lacks what a read needs and has no room for it. Nothing was done, and
    /// another node may do it.
    DiskFull = "disk_full", 503;
    /// The node's cache memory is full; nothing was done.
    MemoryFull = "memory_full", 503;
    /// A change of the cluster's members that cannot be made, with the reason; nothing was done.
    ClusterChangeRefused = "cluster_change_refused", 409;
    /// Another node leads and takes the write: its URL is in `Location`; nothing was done.
    LeaderElsewhere = "leader_elsewhere", 307;
    /// The write may or may not have been done.
    OutcomeUnknown = "outcome_unknown", 503;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
