//! All keys under a prefix, one page at a time.

use std::collections::VecDeque;

use api::request;

use crate::error::Error;
use crate::store::{Keyspace, Store};

/// The most keys that one page may hold, by the contract.
const PAGE_KEYS_MAX: u64 = 1000;

/// Walks through keys in byte order. Each page starts behind the last key of the one before, so that the cost of a
/// page does not grow with depth, and a set that changes is walked without missing a key that stays. One page is one
/// consistent view; two pages are two.
pub struct Cursor<S> {
    store: Store<S>,
    prefix: Option<String>,
    page_keys: u64,
    after: Option<String>,
    page: VecDeque<String>,
    is_last_page: bool,
}

impl<S: Keyspace> Cursor<S> {
    pub(crate) fn new(store: Store<S>, prefix: &str) -> Self {
        Self {
            store,
            prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
            page_keys: PAGE_KEYS_MAX,
            after: None,
            page: VecDeque::new(),
            is_last_page: false,
        }
    }

    /// Starts behind `key`.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// How many keys to ask for at once: 1..=1000, 1000 by default. Fewer when keys are long, since a page is held in
    /// memory whole.
    #[must_use]
    pub fn page_keys(mut self, keys: u64) -> Self {
        self.page_keys = keys.clamp(1, PAGE_KEYS_MAX);
        self
    }

    /// The next key; `None` behind the last one. After an error the same call goes on where it stood.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        if self.page.is_empty() {
            self.page = self.next_page().await?.into();
        }
        Ok(self.page.pop_front())
    }

    /// The keys that [`Self::next`] still holds, or else the next page; empty behind the last one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn next_page(&mut self) -> Result<Vec<String>, Error> {
        if !self.page.is_empty() {
            return Ok(std::mem::take(&mut self.page).into());
        }
        if self.is_last_page {
            return Ok(Vec::new());
        }
        let page = request::Iterate {
            prefix: self.prefix.clone(),
            offset: None,
            limit: Some(self.page_keys),
            after: self.after.clone(),
        };
        let keys = self.store.iterate(&page).await?.value;
        // A full page may be followed by another; a short one is the end.
        self.is_last_page = (keys.len() as u64) < self.page_keys;
        if let Some(last) = keys.last() {
            self.after = Some(last.clone());
        }
        Ok(keys)
    }
}
