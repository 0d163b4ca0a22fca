//! How pages are read: few cache lines for a search, no allocation, no number that is looked up twice.
//!
//! 1. The *head* says how many keys there are, how many strings in all, and how long the prefix is that all keys share.
//! 2. Then come the *ends*, which say where each string ends, and the prefix.
//! 3. Then the strings: what each key has behind the prefix, in ascending order, and in a leaf's page the values.
//!
//! [`super::page`] writes what is read here.

use std::{cmp::Ordering, ops::Range};

/// Bytes of the three numbers of the head.
pub(super) const HEAD_BYTES: usize = 3 * NUMBER_BYTES;
/// Bytes of a number, which is little-endian.
pub(super) const NUMBER_BYTES: usize = size_of::<u32>();

/// A string in two pieces, so that nobody has to join them before they are written to a page.
pub(super) type Pieces<'a> = [&'a [u8]; 2];

/// A page taken apart. Its strings are the keys without their prefix, and then the values, if it has any.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    keys: usize,
    /// Counted from the begin of `strings`.
    ends: &'a [[u8; NUMBER_BYTES]],
    prefix: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Cells<'a> {
    pub(super) fn new(page: &'a [u8]) -> Self {
        let (head, rest) = page.split_at(HEAD_BYTES);
        let (head, _) = head.as_chunks();
        let [keys, count, prefix_bytes] = [0, 1, 2].map(|number| u32::from_le_bytes(head[number]) as usize);
        let (ends, rest) = rest.split_at(count * NUMBER_BYTES);
        let (prefix, strings) = rest.split_at(prefix_bytes);
        Self { keys, ends: ends.as_chunks().0, prefix, strings }
    }

    /// How many keys there are.
    pub(super) fn len(self) -> usize {
        self.keys
    }

    /// What all keys begin with.
    pub(super) fn prefix(self) -> &'a [u8] {
        self.prefix
    }

    /// The key at `slot` without the prefix.
    pub(super) fn suffix(self, slot: usize) -> &'a [u8] {
        self.run(slot..slot + 1)
    }

    /// The length of the whole key at `slot`.
    pub(super) fn key_bytes(self, slot: usize) -> usize {
        self.prefix.len() + self.suffix(slot).len()
    }

    /// The whole key at `slot`.
    pub(super) fn key(self, slot: usize) -> Vec<u8> {
        [self.prefix, self.suffix(slot)].concat()
    }

    /// The value of the key at `slot`, in a page that has values.
    pub(super) fn value(self, slot: usize) -> &'a [u8] {
        self.run(self.value_at(slot)..self.value_at(slot + 1))
    }

    /// Bytes that the keys before `slot` and their values take, the prefix aside.
    pub(super) fn bytes_before(self, slot: usize) -> usize {
        let value = self.value_at(slot);
        let ends = (slot + value - self.value_at(0)) * NUMBER_BYTES;
        ends + self.offset(slot) + self.offset(value) - self.offset(self.value_at(0))
    }

    /// Where `key` is, or else where it would have to be.
    pub(super) fn search(self, key: &[u8]) -> Result<usize, usize> {
        let Some(suffix) = key.strip_prefix(self.prefix) else {
            return Err(if key < self.prefix { 0 } else { self.keys });
        };
        let (mut low, mut high) = (0, self.keys);
        while low < high {
            let middle = low.midpoint(high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many strings there are.
    pub(super) fn strings(self) -> usize {
        self.ends.len()
    }

    /// Bytes of all strings.
    pub(super) fn strings_bytes(self) -> usize {
        self.strings.len()
    }

    /// The page's own words on where `strings` end.
    pub(super) fn ends(self, strings: Range<usize>) -> &'a [u8] {
        self.ends[strings].as_flattened()
    }

    /// Which string is the value of the key at `slot`; the one behind the last in a page without values.
    pub(super) fn value_at(self, slot: usize) -> usize {
        (self.keys + slot).min(self.ends.len())
    }

    /// Where a string begins.
    pub(super) fn offset(self, string: usize) -> usize {
        string.checked_sub(1).map_or(0, |former| u32::from_le_bytes(self.ends[former]) as usize)
    }

    /// Strings as they lie one behind the other.
    pub(super) fn run(self, strings: Range<usize>) -> &'a [u8] {
        &self.strings[self.offset(strings.start)..self.offset(strings.end)]
    }

    /// The first `bytes` of the key at `slot`.
    pub(super) fn begin(self, slot: usize, bytes: usize) -> Pieces<'a> {
        let more = bytes.saturating_sub(self.prefix.len());
        [&self.prefix[..bytes - more], &self.suffix(slot)[..more]]
    }

    /// The keys at `slots` behind their first `bytes`, which they share.
    pub(super) fn behind(self, slots: Range<usize>, bytes: usize) -> impl Iterator<Item = Pieces<'a>> + Clone {
        let back = &self.prefix[bytes.min(self.prefix.len())..];
        let more = bytes.saturating_sub(self.prefix.len());
        slots.map(move |slot| [back, &self.suffix(slot)[more..]])
    }

    /// The values of the keys at `slots`, if the page has any.
    pub(super) fn values(self, slots: Range<usize>) -> impl Iterator<Item = Pieces<'a>> + Clone {
        (self.value_at(slots.start)..self.value_at(slots.end)).map(move |string| [self.run(string..string + 1), &[]])
    }
}

/// The length of a string in pieces.
pub(super) fn len(string: Pieces<'_>) -> usize {
    string[0].len() + string[1].len()
}

/// How many bytes `a` and `b` have in common at their begin.
pub(super) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
