//! Rows that are looked up ahead of the transaction that asks for them, beside the one before it.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use crate::engine::{Bytes, Result, View};

/// What a [checkpoint](crate::Engine::checkpointed) holds at some keys, for [`crate::Engine::begin_with`].
pub struct Ahead<V> {
    durable: V,
    rows: HashMap<Box<[u8]>, Option<Bytes>>,
}

impl<V: View> Ahead<V> {
    /// Looks `keys` up in `durable`, one after the other, as long as keys and values have `bytes_max` bytes together at most.
    /// Those behind are left to the transaction.
    ///
    /// # Errors
    /// What looking them up fails with.
    pub fn look_up(durable: V, keys: impl Iterator<Item = Vec<u8>>, bytes_max: usize) -> Result<Self> {
        let mut rows = HashMap::new();
        let mut bytes = 0;
        for key in keys {
            let key_bytes = key.len();
            let Entry::Vacant(row) = rows.entry(key.into_boxed_slice()) else { continue };
            let value = durable.get(row.key())?;
            bytes += key_bytes + value.as_ref().map_or(0, |value| value.len());
            if bytes > bytes_max {
                break;
            }
            row.insert(value);
        }
        Ok(Self { durable, rows })
    }

    /// Where they were looked up.
    pub(crate) fn durable(&self) -> &V {
        &self.durable
    }

    /// The value at `key`; None when it was not looked up.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.rows.get(key)
    }

    /// How many keys were looked up.
    pub fn count(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
impl<V> Ahead<V> {
    /// The same rows, as if they had been looked up elsewhere.
    pub(crate) fn seen_in<W>(self, durable: W) -> Ahead<W> {
        Ahead { durable, rows: self.rows }
    }
}

impl<V> fmt::Debug for Ahead<V> {
    /// Tells how many rows there are: they are nobody's but their owner's.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ahead").field("count", &self.rows.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Engine, MemoryEngine, Transaction};

    #[test]
    fn each_key_is_looked_up_once_and_no_more_than_have_room() {
        let engine = MemoryEngine::new();
        let mut transaction = engine.begin();
        transaction.put(b"long", &[7; 100]);
        transaction.commit().unwrap();
        let found = |bytes_max| {
            let keys = ["none", "long", "none", "long", "last"].map(|key| key.as_bytes().to_vec());
            let ahead = Ahead::look_up(engine.checkpointed(), keys.into_iter(), bytes_max).unwrap();
            ["none", "long", "last"]
                .map(|key| ahead.get(key.as_bytes()).map(|value| value.as_ref().map(|value| value.len())))
        };
        assert_eq!(found(3), [None, None, None]);
        assert_eq!(found(107), [Some(None), None, None]);
        assert_eq!(found(108), [Some(None), Some(Some(100)), None]);
        assert_eq!(found(112), [Some(None), Some(Some(100)), Some(None)]);
    }
}
