//! Reading the state: pure functions over one consistent view.
//!
//! A reader never waits for the writer and never changes. Whether what it shows is fresh enough is the caller's matter,
//! and so is whether a key has expired: the caller has the clock.

use std::collections::VecDeque;

use storage::{Bytes, KeyRange, View};

pub use crate::usage::Usage;
use crate::{
    applied::{Applied, Totals},
    apply,
    bounds::DELETIONS_PAGE_MAX,
    command::{Command, KeyRef},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, ScopeId},
    keys::{Caller, Entity},
    kv::{Key, Page, PageStart},
    layout::{self, AliasRow, Credential, EntityRow},
    outcome::{Fault, Outcome},
    registry::RegistryState,
    usage::Account,
};

/// A stored value as a get answers it. Holds the stored row itself: no copy is made.
#[derive(Clone, Debug)]
pub struct Stored {
    row: Bytes,
    value_start: usize,
    revision: u64,
}

impl Stored {
    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.row[self.value_start..]
    }

    /// The scope's revision at which the key was last written.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// A key as iterate answers it, without its scope. Holds the stored row's key itself: no copy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    row_key: Bytes,
    key_start: usize,
}

impl StoredKey {
    /// The client's key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.row_key[self.key_start..]
    }
}

/// A reader of one consistent view of one keyspace's state. Methods on keys, aliases, deletions of keys and the
/// registry find nothing in the `cache` keyspace, which holds none.
#[derive(Clone)]
pub struct Reader<V: View> {
    view: V,
    keyspace: Keyspace,
}

impl<V: View> Reader<V> {
    pub(crate) fn new(view: V, keyspace: Keyspace) -> Self {
        Self { view, keyspace }
    }

    pub(crate) fn view(&self) -> &V {
        &self.view
    }

    /// Which store this reads.
    pub fn keyspace(&self) -> Keyspace {
        self.keyspace
    }

    /// The value at `key`, if there is one.
    pub fn get(&self, scope: ScopeId, key: &Key) -> Result<Option<Stored>, Fault> {
        let Some(row) = self.view.get(&layout::value_key(self.keyspace, scope, key.as_bytes()))? else {
            return Ok(None);
        };
        let (revision, value) = layout::decode_value(&row)?;
        let value_start = row.len() - value.len();
        Ok(Some(Stored { row, value_start, revision }))
    }

    /// The outcome of a command that this view's state refuses for its condition, and nothing else: it changes nothing
    /// wherever in the log it stands behind this view. None for every other one.
    pub fn refusal(&self, command: &Command) -> Result<Option<Outcome>, Fault> {
        apply::refusal(&self.view, self.keyspace, command)
    }

    /// The keys of one page, in byte order. Lazy: it reads a little at a time, so that a page of great keys is never held
    /// whole. Owns what it needs, so that it can be moved into an answer's body. It ends after an error.
    pub fn keys(&self, scope: ScopeId, page: &Page) -> Keys<V> {
        let prefix = layout::value_key(self.keyspace, scope, page.prefix());
        let (range, skip) = match page.start() {
            PageStart::Offset(offset) => (KeyRange::prefix(&prefix), *offset),
            PageStart::After(after) => {
                (KeyRange::prefix_after(&prefix, &layout::value_key(self.keyspace, scope, after)), 0)
            }
        };
        Keys { view: self.view.clone(), range, skip, left: page.limit() as usize, read: VecDeque::new() }
    }

    /// What a scope uses; nothing when it does not exist.
    pub fn usage(&self, scope: ScopeId) -> Result<Usage, Fault> {
        Ok(self.account(scope)?.map_or_else(Usage::default, |account| account.usage))
    }

    /// Whose secret hashes to `hash`: an entity key or an alias. Expired ones are found too.
    pub fn caller(&self, hash: &ApiKeyHash) -> Result<Option<Caller>, Fault> {
        let Some(Credential { id, alias_of }) = self.load(&layout::credential_key(hash))? else { return Ok(None) };
        let entity = self.entity_by_id(alias_of.unwrap_or(id))?;
        Ok(entity.map(|entity| Caller { id, is_alias: alias_of.is_some(), entity }))
    }

    /// An entity key. An alias is not found here.
    pub fn entity(&self, key: &KeyRef) -> Result<Option<Entity>, Fault> {
        match key {
            KeyRef::Id(id) => self.entity_by_id(*id),
            KeyRef::Hash(hash) => Ok(self.caller(hash)?.filter(|caller| !caller.is_alias).map(|caller| caller.entity)),
        }
    }

    /// The entity key that an alias belongs to. An entity key is not found here.
    pub fn entity_by_alias(&self, alias: &KeyRef) -> Result<Option<Entity>, Fault> {
        match alias {
            KeyRef::Id(id) => match self.load::<AliasRow>(&layout::alias_key(*id))? {
                Some(AliasRow { owner, .. }) => self.entity_by_id(owner),
                None => Ok(None),
            },
            KeyRef::Hash(hash) => Ok(self.caller(hash)?.filter(|caller| caller.is_alias).map(|caller| caller.entity)),
        }
    }

    /// Entity keys in the order of their ids, behind the first `offset`, at most `limit`. Costs more the more
    /// are before.
    pub fn entities(&self, offset: u64, limit: u32) -> Result<Vec<Entity>, Fault> {
        let keys = self.view.keys(KeyRange::prefix(&layout::ENTITY_PREFIX), offset);
        keys.take(limit as usize)
            .map(|key| {
                let key = key?;
                let row = self
                    .load(&key)?
                    .ok_or_else(|| layout::damaged("an API key's row", "a scan finds it, and a look-up does not"))?;
                self.entity_of(ApiKeyId(layout::row_id(&key)?), row)
            })
            .collect()
    }

    /// The scopes whose removal is not finished (`values`) or that were closed in this generation (`cache`), in the
    /// order of their ids; at most [`DELETIONS_PAGE_MAX`].
    pub fn deletions(&self) -> Result<Vec<ScopeId>, Fault> {
        let rows = self.view.scan(KeyRange::prefix(&layout::DELETION_PREFIX)).take(DELETIONS_PAGE_MAX);
        rows.map(|row| Ok(ScopeId(layout::row_id(&row?.0)?))).collect()
    }

    /// The cache group's registry.
    pub fn registry(&self) -> Result<RegistryState, Fault> {
        Ok(self.load(&layout::REGISTRY_KEY)?.unwrap_or_default())
    }

    /// How far this view has come.
    pub fn applied(&self) -> Result<Applied, Fault> {
        Ok(self.load(&layout::APPLIED_KEY)?.unwrap_or_else(|| Applied::new(self.keyspace)))
    }

    /// Sums over all scopes. Costs one row.
    pub fn totals(&self) -> Result<Totals, Fault> {
        Ok(self.applied()?.totals)
    }

    fn load<R: layout::Record>(&self, key: &[u8]) -> Result<Option<R>, Fault> {
        layout::load(&self.view, key)
    }

    fn account(&self, scope: ScopeId) -> Result<Option<Account>, Fault> {
        self.load(&layout::account_key(scope))
    }

    fn entity_by_id(&self, id: ApiKeyId) -> Result<Option<Entity>, Fault> {
        let row: Option<EntityRow> = self.load(&layout::entity_key(id))?;
        row.map(|row| self.entity_of(id, row)).transpose()
    }

    /// Brings an entity together with its limits, which lie in its scope's account.
    fn entity_of(&self, id: ApiKeyId, row: EntityRow) -> Result<Entity, Fault> {
        let EntityRow { scope, hash: _, name, expires_at_unix_ms, created_at_unix_ms, aliases } = row;
        let limits = self.account(scope)?.and_then(|account| account.limits);
        let limits = limits.ok_or(Fault::Unbalanced { scope })?;
        Ok(Entity { id, scope, name, limits, expires_at_unix_ms, created_at_unix_ms, aliases })
    }
}

/// The most keys that [`Keys`] reads ahead.
const READ_AHEAD_KEYS: usize = 128;
/// The bytes of keys after which [`Keys`] reads no further ahead.
const READ_AHEAD_BYTES: usize = 262_144;

/// The keys of one page; see [`Reader::keys`].
pub struct Keys<V: View> {
    view: V,
    range: KeyRange,
    skip: u64,
    /// How many keys the page still takes, those read ahead included.
    left: usize,
    read: VecDeque<StoredKey>,
}

impl<V: View> Keys<V> {
    fn read_ahead(&mut self) -> Result<(), Fault> {
        let mut read_bytes = 0;
        for row_key in self.view.keys(self.range.clone(), self.skip) {
            let row_key = row_key?;
            read_bytes += row_key.len();
            let key_start = row_key.len() - layout::client_key(&row_key)?.len();
            self.read.push_back(StoredKey { row_key, key_start });
            if self.read.len() >= self.left.min(READ_AHEAD_KEYS) || read_bytes >= READ_AHEAD_BYTES {
                break;
            }
        }
        self.skip = 0;
        match self.read.back() {
            Some(StoredKey { row_key, .. }) => self.range.start = [row_key.as_ref(), &[0]].concat().into(),
            None => self.left = 0,
        }
        Ok(())
    }
}

impl<V: View> Iterator for Keys<V> {
    type Item = Result<StoredKey, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let must_read = self.read.is_empty() && self.left > 0 && !self.range.is_empty();
        if must_read && let Err(fault) = self.read_ahead() {
            self.read.clear();
            self.left = 0;
            return Some(Err(fault));
        }
        let key = self.read.pop_front()?;
        self.left -= 1;
        Some(Ok(key))
    }
}
