//! The state's hash: two nodes that applied the same entries hold the same one.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// A hash of a set of rows, whatever the order in which they came: the sum, modulo 2^128, of a hash of each row. So a
/// changed row costs its own hashing and no more. It finds bugs and damage; it is no defence against an attacker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash(u128);

impl StateHash {
    /// Adds a row to the set.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(row_hash(key, value));
    }

    /// Takes a row out of the set.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(row_hash(key, value));
    }
}

/// Seeding with the key's hash binds the value to its key without copying either.
fn row_hash(key: &[u8], value: &[u8]) -> u128 {
    xxh3_128_with_seed(value, xxh3_64(key))
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let mut forth = StateHash::default();
        forth.insert(b"a", b"1");
        forth.insert(b"b", b"2");
        let mut back = StateHash::default();
        back.insert(b"b", b"2");
        back.insert(b"c", b"3");
        back.insert(b"a", b"1");
        assert_ne!(forth, back);
        back.remove(b"c", b"3");
        assert_eq!(forth, back);
    }

    #[test]
    fn values_belong_to_their_keys() {
        let mut straight = StateHash::default();
        straight.insert(b"a", b"1");
        straight.insert(b"b", b"2");
        let mut crossed = StateHash::default();
        crossed.insert(b"a", b"2");
        crossed.insert(b"b", b"1");
        assert_ne!(straight, crossed);
    }
}
