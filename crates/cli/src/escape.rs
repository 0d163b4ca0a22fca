//! Text that others chose, made safe to show: a control character in a stored key or in a name would act on the
//! reader's terminal, and a newline would forge a row.

use std::borrow::Cow;

use serde::Serialize;

/// `text` with its control characters (C0, DEL, C1) as Rust writes them, `\n` or `\u{1b}`, but for those in `kept`.
///
/// For eyes only: a backslash stays as it is, so what is shown cannot be read back.
pub(crate) fn controls<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let is_escaped = |c: char| c.is_control() && !kept.contains(&c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// `document` as JSON without control characters. JSON itself leaves DEL and C1 as they are, and many a terminal takes
/// U+009B for the beginning of an escape sequence; escaped, they are the same document to a parser.
pub(crate) fn json(document: &impl Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(document)?;
    // Outside of its strings, JSON on one line holds none.
    while let Some(c) = text.chars().find(|c| c.is_control()) {
        text = text.replace(c, &format!("\\u{:04x}", u32::from(c)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_all_else_stays() {
        for (text, shown) in [
            ("", ""),
            ("plain", "plain"),
            ("naïve 値 👩‍🚀 \\ \"", "naïve 値 👩‍🚀 \\ \""),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\nroot\tb\r", "a\\nroot\\tb\\r"),
            ("\0\x07\x7f\u{9b}31m", "\\u{0}\\u{7}\\u{7f}\\u{9b}31m"),
        ] {
            assert_eq!(controls(text, &[]), shown, "{text:?}");
        }
        assert!(matches!(controls("nothing to do", &[]), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_kept_stays() {
        assert_eq!(controls("a\tb\nc\r\x1b", &['\n', '\t']), "a\tb\nc\\r\\u{1b}");
    }
}
