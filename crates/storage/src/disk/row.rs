//! A row's value as the floor holds it: the value behind a CRC-32C of key and value.
//!
//! redb checks its pages' checksums when a file is opened, not when it reads one. Without this, a byte that went bad
//! on the disk since would be served as if a client had written it.

const CRC_BYTES: usize = 4;

/// How many bytes a value takes.
pub(super) fn sealed_bytes(value: &[u8]) -> usize {
    CRC_BYTES + value.len()
}

/// Writes `value`, sealed, over all of `out`, which has [`sealed_bytes`].
pub(super) fn seal(key: &[u8], value: &[u8], out: &mut [u8]) {
    let (crc, rest) = out.split_at_mut(CRC_BYTES);
    crc.copy_from_slice(&checksum(key, value).to_le_bytes());
    rest.copy_from_slice(value);
}

/// The value that was sealed for `key`; none when these are not the bytes that were written for it.
pub(super) fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = sealed.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == checksum(key, value)).then_some(value)
}

/// Over the key too, so that a value is never taken for another key's.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}
