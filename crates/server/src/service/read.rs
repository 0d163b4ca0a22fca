//! Reads: one consistent view of one store, whichever engine is below it.

use std::time::Duration;

use state::{command::KeyRef, ids::ScopeId, keys::Entity, kv::Page};
use storage::View;

use super::{Error, Instant, Key, Keyspace, Reader, Service, Stored};

type DiskView = <storage::disk::DiskEngine as storage::Engine>::View;
type MemoryView = <storage::memory::MemoryEngine as storage::Engine>::View;

/// Which state a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// One that holds everything acknowledged before the read began.
    Linearizable,
    /// What this node has applied.
    Stale,
}

/// A reader of either store.
pub(crate) enum AnyReader {
    /// Of the Value Store.
    Values(Reader<DiskView>),
    /// Of the Cache.
    Cache(Reader<MemoryView>),
}

impl AnyReader {
    /// The value at the key.
    pub(crate) fn get(&self, scope: ScopeId, key: &Key) -> Result<Option<Stored>, Error> {
        match self {
            Self::Values(reader) => Ok(reader.get(scope, key)?),
            Self::Cache(reader) => Ok(reader.get(scope, key)?),
        }
    }

    /// Calls `visit` with each key of the page, in order, until it answers false. Blocks while the disk reads.
    pub(crate) fn visit_keys(
        &self,
        scope: ScopeId,
        page: &Page,
        visit: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Error> {
        match self {
            Self::Values(reader) => visit_keys(reader, scope, page, visit),
            Self::Cache(reader) => visit_keys(reader, scope, page, visit),
        }
    }
}

fn visit_keys<V: View>(
    reader: &Reader<V>,
    scope: ScopeId,
    page: &Page,
    mut visit: impl FnMut(&[u8]) -> bool,
) -> Result<(), Error> {
    for key in reader.keys(scope, page) {
        if !visit(key?.as_bytes()) {
            break;
        }
    }
    Ok(())
}

impl Service {
    /// A reader of the store.
    pub(crate) async fn reader(
        &self,
        keyspace: Keyspace,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<AnyReader, Error> {
        match (keyspace, consistency) {
            (Keyspace::Values, Consistency::Linearizable) => Ok(AnyReader::Values(self.values().read(deadline).await?)),
            (Keyspace::Values, Consistency::Stale) => {
                self.check_lease()?;
                Ok(AnyReader::Values(self.values().local()))
            }
            (Keyspace::Cache, consistency) => {
                let cache = self.cache().ok_or(Error::NoLeader)?;
                let reader = match consistency {
                    Consistency::Linearizable => cache.group.read(deadline).await?,
                    Consistency::Stale => {
                        self.check_lease()?;
                        cache.group.local()
                    }
                };
                Ok(AnyReader::Cache(reader))
            }
        }
    }

    /// How old what this node has of the store may be, for a stale read.
    pub(crate) fn staleness(&self, keyspace: Keyspace) -> Result<Duration, Error> {
        let staleness = match keyspace {
            Keyspace::Values => self.values().staleness(),
            Keyspace::Cache => self.cache().and_then(|cache| cache.group.staleness()),
        };
        staleness.ok_or(Error::NoLeader)
    }

    /// The API key that `which` names.
    pub(crate) async fn entity(&self, which: &KeyRef, deadline: Instant) -> Result<Entity, Error> {
        self.values().read(deadline).await?.entity(which)?.ok_or(Error::ApiKeyNotFound)
    }

    /// Linearizable readers of both stores.
    pub(crate) async fn both(&self, deadline: Instant) -> Result<Both, Error> {
        let cache = self.cache().ok_or(Error::NoLeader)?;
        let values = self.values().read(deadline).await?;
        let cache = cache.group.read(deadline).await?;
        Ok(Both { values, cache })
    }
}

/// Readers of both stores: for what an API key has, and for what it uses.
pub(crate) struct Both {
    values: Reader<DiskView>,
    cache: Reader<MemoryView>,
}

impl Both {
    /// Bytes that the scope uses in the Value Store and in the Cache.
    pub(crate) fn usage(&self, scope: ScopeId) -> Result<api::response::Usage, Error> {
        Ok(api::response::Usage {
            bytes_on_disk: self.values.usage(scope)?.bytes,
            bytes_in_memory: self.cache.usage(scope)?.bytes,
        })
    }

    /// The API key that `which` names.
    pub(crate) fn entity(&self, which: &KeyRef) -> Result<Entity, Error> {
        self.values.entity(which)?.ok_or(Error::ApiKeyNotFound)
    }

    /// The API key whose alias `which` names.
    pub(crate) fn entity_by_alias(&self, which: &KeyRef) -> Result<Entity, Error> {
        self.values.entity_by_alias(which)?.ok_or(Error::ApiKeyNotFound)
    }

    /// A page of all API keys.
    pub(crate) fn entities(&self, offset: u64, limit: u32) -> Result<Vec<Entity>, Error> {
        Ok(self.values.entities(offset, limit)?)
    }
}
