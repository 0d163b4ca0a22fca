//! The texts of values: the number that the history knows, padded with zeros to a length that follows from it.
//!
//! So values differ in length, and quotas and usage are tried; a number has one text alone, so that `cas` compares what the
//! history compares; and the server takes it for the number that it is when it is bumped.

/// Values that are written are multiples of this, so that sums of additions never meet them.
pub(crate) const STEP: i64 = 1_000_000;

/// The text of a number.
pub(crate) fn text(value: i64) -> String {
    let written = value / STEP;
    if value <= 0 || value % STEP != 0 {
        // What a bump has left is as short as can be.
        return value.to_string();
    }
    // One in 16 is long, so that the log grows into its next segments all the time, and meets a disk that is full.
    let length = if written % 16 == 15 { 10_000 + written * 7_919 % 40_000 } else { 20 + written * 7_919 % 600 };
    format!("{value:0>width$}", width = usize::try_from(length).unwrap_or(20))
}

/// The number of a text.
pub(crate) fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_text_and_a_text_its_number() {
        for value in [0, 1, 999_999, STEP, 63 * STEP, 64 * STEP, 64 * STEP + 2, -4] {
            assert_eq!(number(&text(value)), Some(value));
        }
        assert!(text(63 * STEP).len() >= 10_000);
        assert_eq!(text(STEP + 1), "1000001");
        assert!(text(STEP).len() > text(STEP + 1).len());
    }
}
