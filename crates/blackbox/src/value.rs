//! The texts of values: the number that the history knows, padded with zeros to a length that follows from it.
//!
//! So values differ in length, and quotas and usage are tried; a number has one text alone, so that `cas` compares what the
//! history compares; and the server takes it for the number that it is when it is bumped.

/// Values that are written are multiples of this, so that sums of additions never meet them.
const STEP: i64 = 1_000_000;
/// The last of so many multiples is a long one.
const KINDS: i64 = 16;

/// The value that an operation writes, by its number: no other writes it. A long one makes the log grow into its next segments,
/// which are of 4.3 MiB at least.
pub(crate) fn written(number: i64, is_long: bool) -> i64 {
    (number * KINDS + if is_long { KINDS - 1 } else { number % (KINDS - 1) }) * STEP
}

/// The text of a number.
pub(crate) fn text(value: i64) -> String {
    let written = value / STEP;
    if value <= 0 || value % STEP != 0 {
        // What a bump has left is as short as can be.
        return value.to_string();
    }
    let is_long = written % KINDS == KINDS - 1;
    let length = if is_long { 40_000 + written * 7_919 % 160_000 } else { 20 + written * 7_919 % 600 };
    let digits = value.to_string();
    // A width of `format!` ends at 65,535.
    "0".repeat(usize::try_from(length).unwrap_or(20).saturating_sub(digits.len())) + &digits
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
        for value in [0, 1, 999_999, STEP, written(1, false), written(2, true), written(2, true) + 2, -4] {
            assert_eq!(number(&text(value)), Some(value));
        }
        assert_eq!(text(STEP + 1), "1000001");
        for number in 1..1_000 {
            let (short, long) = (written(number, false), written(number, true));
            assert!(text(short).len() < 1_000 && text(long).len() >= 40_000);
            assert!(short < written(number + 1, true) && long < written(number + 1, false) && short != long);
        }
    }
}
