//! Byte counts, as they are typed and shown.

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads `1048576` or `1MiB`: whole numbers, so that nothing is rounded.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a whole number of bytes is expected, as 1048576 or 1MiB; the units are KiB, MiB, GiB, TiB".into());
    }
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(|| "that is more than 8,388,607 TiB".into())
}

/// The shortest text that [`parse`] reads as `bytes`.
pub(crate) fn show(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!(parse("0").unwrap(), 0);
        assert_eq!(parse("1048577").unwrap(), 1_048_577);
        assert_eq!(parse("250MiB").unwrap(), 262_144_000);
        assert_eq!(parse("8388607TiB").unwrap(), 8_388_607 << 40);
        for refused in ["", "MiB", "-1", "+1", "1.5MiB", "1 MiB", "1MB", "1mib", "8388608TiB", "18446744073709551616"] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_can_be_typed() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (1024, "1KiB"), (1 << 30, "1GiB"), ((1 << 30) + 1, "1073741825")]
        {
            assert_eq!(show(bytes), text);
            assert_eq!(parse(text).unwrap(), i64::try_from(bytes).unwrap());
        }
    }
}
