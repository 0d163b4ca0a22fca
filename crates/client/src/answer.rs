//! What a served request answers, beside its payload.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// A payload and what the answer's headers say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The payload.
    pub value: T,
    /// After a write: the scope's counter of accepted writes to this store. After a get: the revision at which the
    /// key was last written.
    pub revision: Option<u64>,
    /// On every answer of the cache: revisions compare only within one generation, and a new one means that the
    /// cache was lost and starts empty.
    pub cache_generation: Option<u64>,
    /// On a stale read: the age of the node's last word from the leader.
    pub staleness: Option<Duration>,
}

impl<T> Answer<T> {
    /// Reads the headers. One that is no number counts as absent: it informs, and nothing is decided by it.
    pub(crate) fn new(value: T, headers: &HeaderMap) -> Self {
        Self {
            value,
            revision: number(headers, api::header::REVISION),
            cache_generation: number(headers, api::header::CACHE_GENERATION),
            staleness: number(headers, api::header::STALENESS_MS).map(Duration::from_millis),
        }
    }

    /// The same answer with another payload.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: change(self.value),
            revision: self.revision,
            cache_generation: self.cache_generation,
            staleness: self.staleness,
        }
    }
}

/// A header that holds a whole number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
