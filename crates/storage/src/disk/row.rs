//! A row's value as the floor holds it, behind a CRC-32C of key and value.
//!
//! redb checks its pages' checksums when a file is opened, not when it reads one. Without this, a byte that went bad
//! on the disk since would be served as if a client had written it.
//!
//! A *whole* value is `checksum ‖ value`. Of one that was cut (`pieces.rs`), the row is `checksum ‖ head ‖ tail`, and that checksum
//! starts from another value: for the same key and bytes the two always differ, whatever the bytes are, so that no value can
//! be taken for a head.

const CRC_BYTES: usize = 4;

/// What a row of a cut value takes beside the tail.
pub(super) const HEAD_BYTES: usize = CRC_BYTES + 4 + 8 + 4;

/// What the checksum of a row starts from.
const WHOLE: u32 = 0;
const CUT: u32 = 0x6375_7421;

/// What [`open`] finds in a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened<'a> {
    /// The value.
    Whole(&'a [u8]),
    /// What to put together.
    Cut(Cut<'a>),
}

/// A value whose beginning lies elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut<'a> {
    /// In how many pieces.
    pub(super) pieces: u32,
    /// How long the value is, with its tail.
    pub(super) value_bytes: u64,
    /// What [`checksum`] says of it.
    pub(super) checksum: u32,
    /// Its end.
    pub(super) tail: &'a [u8],
}

/// What a row of a whole value takes.
pub(super) fn whole_bytes(value_bytes: usize) -> usize {
    CRC_BYTES + value_bytes
}

/// Writes the row of a value into `out`, in place of what it holds.
pub(super) fn seal(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&checksum(key, value).to_le_bytes());
    out.extend_from_slice(value);
}

/// Writes the row of a value that was cut into `out`, in place of what it holds.
pub(super) fn seal_cut(key: &[u8], cut: &Cut<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; CRC_BYTES]);
    out.extend_from_slice(&cut.pieces.to_le_bytes());
    out.extend_from_slice(&cut.value_bytes.to_le_bytes());
    out.extend_from_slice(&cut.checksum.to_le_bytes());
    out.extend_from_slice(cut.tail);
    let (crc, rest) = out.split_at_mut(CRC_BYTES);
    crc.copy_from_slice(&checksum_from(CUT, key, rest).to_le_bytes());
}

/// What was sealed for `key`; none when these are not the bytes that were written for it.
pub(super) fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Option<Opened<'a>> {
    let (crc, rest) = sealed.split_first_chunk::<CRC_BYTES>()?;
    let crc = u32::from_le_bytes(*crc);
    if crc == checksum(key, rest) {
        return Some(Opened::Whole(rest));
    }
    let (pieces, rest_of_head) = rest.split_first_chunk()?;
    let (value_bytes, rest_of_head) = rest_of_head.split_first_chunk()?;
    let (checksum, tail) = rest_of_head.split_first_chunk()?;
    let cut = Cut {
        pieces: u32::from_le_bytes(*pieces),
        value_bytes: u64::from_le_bytes(*value_bytes),
        checksum: u32::from_le_bytes(*checksum),
        tail,
    };
    (crc == checksum_from(CUT, key, rest)).then_some(Opened::Cut(cut))
}

/// Over the key too, so that a value is never taken for another key's.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> u32 {
    checksum_from(WHOLE, key, value)
}

fn checksum_from(begin: u32, key: &[u8], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(begin, key), bytes)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_row_opens_as_what_it_was_sealed_as(key in vec(any::<u8>(), 0..40), bytes in vec(any::<u8>(), 0..60), pieces: u32) {
            let mut sealed = Vec::new();
            seal(&key, &bytes, &mut sealed);
            prop_assert_eq!(open(&key, &sealed), Some(Opened::Whole(&bytes)));
            let cut = || Cut { pieces, value_bytes: 1 << 40, checksum: 7, tail: &bytes };
            seal_cut(&key, &cut(), &mut sealed);
            prop_assert_eq!(open(&key, &sealed), Some(Opened::Cut(cut())));
            // A value that is, byte for byte, what a cut one's row has behind its checksum.
            let forged = sealed.split_off(CRC_BYTES);
            seal(&key, &forged, &mut sealed);
            prop_assert_eq!(open(&key, &sealed), Some(Opened::Whole(&forged)));
        }

        #[test]
        fn a_row_with_a_wrong_bit_does_not_open(key in vec(any::<u8>(), 0..9), bytes in vec(any::<u8>(), 0..60), at: prop::sample::Index, is_cut: bool) {
            let mut sealed = Vec::new();
            if is_cut {
                seal_cut(&key, &Cut { pieces: 3, value_bytes: 9, checksum: 7, tail: &bytes }, &mut sealed);
            } else {
                seal(&key, &bytes, &mut sealed);
            }
            let bit = at.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&key, &sealed), None);
            prop_assert_eq!(open(&key, &sealed[..at.index(sealed.len())]), None);
        }
    }
}
