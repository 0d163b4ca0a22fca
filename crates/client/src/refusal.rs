//! Answers that are no success, and what they prove.
//!
//! 1. The body is problem JSON, since every request asks for it; an older server or a proxy sends something else.
//! 2. The headers add what a caller needs to wait or to shrink: `Retry-After`, usage, quota, rate.
//! 3. A refused read is just that. A refused write was not done if the status is below 500, or if its code says so;
//!    every other answer leaves its outcome unknown.

use std::fmt;
use std::time::Duration;

use api::code::Code;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::answer::{Answer, number};
use crate::call::Effect;
use crate::error::Error;

/// The most that is kept of an answer's text, in bytes: it is a sentence, and what is longer is not InsiDB's.
const DETAIL_BYTES_MAX: usize = 512;

/// A node's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The server's code; `None` when the answer holds none that this version knows.
    pub code: Option<Code>,
    /// What happened, in the server's words.
    pub detail: String,
    /// How long to wait before the next try.
    pub retry_after: Option<Duration>,
    /// With an exceeded quota: what is used, and the quota.
    pub usage: Option<Usage>,
    /// With an exceeded rate limit: the limit.
    pub rate_limit: Option<RateLimit>,
    /// The request's id, to be found in the server's log.
    pub request_id: Option<String>,
    /// Revision and cache generation as they stand.
    pub standing: Answer<()>,
}

/// Stored bytes against their quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub bytes: u64,
    /// The quota in bytes.
    pub bytes_max: u64,
}

/// A rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per second.
    pub per_second: u64,
    /// Requests at once.
    pub burst: u64,
}

impl RateLimit {
    /// Whether no request is let through, however long one waits: the limit is 0.
    #[must_use]
    pub fn refuses_all(self) -> bool {
        self.per_second == 0
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.detail)?;
        if let Some(usage) = self.usage {
            write!(f, " ({} of {} bytes in use)", usage.bytes, usage.bytes_max)?;
        }
        if let Some(rate) = self.rate_limit {
            write!(f, " ({} requests per second, {} at once)", rate.per_second, rate.burst)?;
        }
        Ok(())
    }
}

/// The part of a problem document that is used. The code is text here, so that a later server's new one is no error.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    code: String,
}

impl Refusal {
    /// Reads an answer that is no success.
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let problem = serde_json::from_slice::<Problem>(body).ok();
        let (code, detail) = match problem {
            Some(problem) => (Code::ALL.iter().copied().find(|code| code.as_str() == problem.code), problem.detail),
            None => (None, plain_text(status, headers, body)),
        };
        Self {
            status,
            code,
            detail,
            retry_after: number(headers, RETRY_AFTER.as_str()).map(Duration::from_secs),
            usage: usage(headers),
            rate_limit: rate_limit(headers),
            request_id: headers.get(api::header::REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned),
            standing: Answer::new((), headers),
        }
    }

    /// The error that this refusal is, for a read or a write.
    pub(crate) fn into_error(self, effect: Effect, node: &str) -> Error {
        match effect {
            Effect::Read => Error::Refused(Box::new(self)),
            Effect::Write if self.status < 500 || self.proves_nothing_done() => Error::Refused(Box::new(self)),
            Effect::Write => {
                Error::OutcomeUnknown { node: node.to_owned(), reason: self.to_string(), refusal: Some(Box::new(self)) }
            }
        }
    }

    fn proves_nothing_done(&self) -> bool {
        matches!(
            self.code,
            Some(Code::NoLeader | Code::NoQuorum | Code::Overloaded | Code::DiskFull | Code::MemoryFull)
        )
    }
}

/// The one line of a `text/plain` answer; anything else is a proxy's page, which helps nobody.
fn plain_text(status: u16, headers: &HeaderMap, body: &[u8]) -> String {
    let is_plain = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/plain"));
    let text = std::str::from_utf8(body).ok().and_then(|text| text.lines().next()).unwrap_or_default();
    if is_plain && !text.is_empty() && text.len() <= DETAIL_BYTES_MAX {
        return text.to_owned();
    }
    format!("HTTP status {status}, without a reason that InsiDB would give")
}

fn usage(headers: &HeaderMap) -> Option<Usage> {
    use api::header::{CURRENT_DISK_USAGE, CURRENT_MEMORY_USAGE, DISK_USAGE_LIMIT, MEMORY_USAGE_LIMIT};
    let pair = |used, max| Some(Usage { bytes: number(headers, used)?, bytes_max: number(headers, max)? });
    pair(CURRENT_DISK_USAGE, DISK_USAGE_LIMIT).or_else(|| pair(CURRENT_MEMORY_USAGE, MEMORY_USAGE_LIMIT))
}

fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    Some(RateLimit {
        per_second: number(headers, api::header::RATE_LIMIT)?,
        burst: number(headers, api::header::RATE_BURST)?,
    })
}
