//! Values that fit no page beside their key, cut into pieces that fill pages of their own.
//!
//! redb gives a row that is longer than a page twice, four, eight times a page: a value of 64 KiB with its key would take 128,
//! and each change would read and write all of it. So the row holds the value's end alone, and a table of its
//! own the rest, each piece as long as a page of 4 to 64 KiB has room for. A value takes less than a page more than its bytes.
//!
//! How a value is cut is nothing to who reads it: the row says how many pieces there are.

use std::{iter, sync::Arc};

use super::row::{self, Cut};
use crate::engine::Bytes;

/// redb's page.
const PAGE_BYTES: usize = 4096;
/// The longest piece's page.
const PIECE_PAGE_BYTES_MAX: usize = 16 * PAGE_BYTES;
/// What redb's leaf takes for its one row, beside key and value.
const LEAF_BYTES: usize = 12;
/// The number of a piece, behind the key of its value.
const NUMBER_BYTES: usize = 4;
/// The values of longer keys stay whole: a piece's page would hold too little beside the key.
const KEY_BYTES_MAX: usize = PAGE_BYTES / 4;

/// Cuts `value` where it does not fit a page beside its key: its pieces, and its tail. Else there are no pieces.
pub(super) fn cut<'a>(key: &[u8], value: &'a [u8]) -> (Vec<&'a [u8]>, &'a [u8]) {
    let taken_bytes = LEAF_BYTES + key.len();
    if taken_bytes + row::whole_bytes(value.len()) <= PAGE_BYTES || key.len() > KEY_BYTES_MAX {
        return (Vec::new(), value);
    }
    let tail_bytes_max = PAGE_BYTES - taken_bytes - row::HEAD_BYTES;
    let room_in = |page_bytes: usize| page_bytes - taken_bytes - NUMBER_BYTES;
    let mut pieces = Vec::with_capacity(value.len() / PIECE_PAGE_BYTES_MAX + 4);
    let mut rest = value;
    while rest.len() > tail_bytes_max {
        let mut page_bytes = PAGE_BYTES;
        while page_bytes < PIECE_PAGE_BYTES_MAX && room_in(2 * page_bytes) <= rest.len() {
            page_bytes *= 2;
        }
        let piece;
        (piece, rest) = rest.split_at(room_in(page_bytes).min(rest.len()));
        pieces.push(piece);
    }
    (pieces, rest)
}

/// The keys of the pieces of the value at `key`, one after the other. They collide with no other value's: what comes behind the
/// key is always as long.
pub(super) fn keys(key: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0_u32..).map(move |number| [key, &number.to_be_bytes()].concat())
}

/// The value of `key` that `cut` tells of, from its pieces; none when they are not what was cut.
pub(super) fn join<'p>(key: &[u8], cut: &Cut<'_>, pieces: impl Iterator<Item = &'p [u8]> + Clone) -> Option<Bytes> {
    let value_bytes = cut.tail.len() + pieces.clone().map(<[u8]>::len).sum::<usize>();
    // Before anything is allocated.
    if value_bytes as u64 != cut.value_bytes {
        return None;
    }
    let mut value: Bytes = iter::repeat_n(0, value_bytes).collect();
    let mut rest = Arc::get_mut(&mut value)?;
    for piece in pieces {
        let place;
        (place, rest) = rest.split_at_mut(piece.len());
        place.copy_from_slice(piece);
    }
    rest.copy_from_slice(cut.tail);
    (row::checksum(key, &value) == cut.checksum).then_some(value)
}
