//! The query string, strictly: what cannot be read exactly is refused, never repaired.

use std::{borrow::Cow, str::FromStr};

use percent_encoding::percent_decode_str;

use crate::http::error::Error;

/// A request's parameters, decoded. Unknown ones are there and never asked for.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Takes the text behind the `?` of a URL.
    ///
    /// # Errors
    /// 400 when a percent sign begins no byte, or the bytes are not UTF-8.
    pub(crate) fn parse(text: Option<&'a str>) -> Result<Self, Error> {
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { pairs })
    }

    /// The parameter's value, when it is there.
    ///
    /// # Errors
    /// 400 when it is there twice.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        let mut values = self.pairs.iter().filter(|(found, _)| found == name).map(|(_, value)| &**value);
        let value = values.next();
        match values.next() {
            Some(_) => Err(Error::invalid(format!("Parameter `{name}` is given twice"))),
            None => Ok(value),
        }
    }

    /// The parameter's value as a whole number, when it is there.
    ///
    /// # Errors
    /// 400 when it is there twice, or is not a whole number from 0 on.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        self.text(name)?.map(|value| whole_number(value).ok_or_else(|| not_a_number(name))).transpose()
    }
}

/// One of two places, or both when they agree.
///
/// # Errors
/// 400 when they do not.
pub(crate) fn agree<T: PartialEq>(name: &str, in_query: Option<T>, in_body: Option<T>) -> Result<Option<T>, Error> {
    match (in_query, in_body) {
        (Some(in_query), Some(in_body)) if in_query != in_body => {
            Err(Error::invalid(format!("`{name}` differs between the query and the body")))
        }
        (in_query, in_body) => Ok(in_query.or(in_body)),
    }
}

fn whole_number(text: &str) -> Option<u64> {
    // `u64::from_str` takes a leading plus; in a query that can only be an encoded one, and no number here has it.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| u64::from_str(text).ok()).flatten()
}

fn not_a_number(name: &str) -> Error {
    Error::invalid(format!("Parameter `{name}` must be a whole number, 0 or more"))
}

fn decode(text: &str) -> Result<Cow<'_, str>, Error> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let well_formed = bytes.iter().enumerate().all(|(at, byte)| {
        *byte != b'%'
            || matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    });
    if !well_formed {
        return Err(Error::invalid("The query has a percent sign that no two hex digits follow"));
    }
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(Cow::Owned(decoded.into_owned())),
        Err(_) => Err(Error::invalid("The query is not UTF-8")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(query: &str) -> Result<Option<String>, String> {
        let query = Query::parse(Some(query)).map_err(|error| error.describe().text.into_owned())?;
        query.text("key").map(|value| value.map(str::to_owned)).map_err(|error| error.describe().text.into_owned())
    }

    #[test]
    fn text_is_decoded_exactly_or_refused() {
        let invalid = |text: &str| Err(text.to_owned());
        for (query, expected) in [
            ("key=a", Ok(Some("a"))),
            ("key=", Ok(Some(""))),
            ("key", Ok(Some(""))),
            ("", Ok(None)),
            ("other=1&&x", Ok(None)),
            ("key=a+b%2Bc%20d", Ok(Some("a b+c d"))),
            ("key=a=b", Ok(Some("a=b"))),
            ("%6bey=x", Ok(Some("x"))),
            ("key=%00%E2%82%AC", Ok(Some("\0€"))),
            ("key=%e2%82%ac", Ok(Some("€"))),
            ("key=a&key=a", invalid("Parameter `key` is given twice")),
            ("key=a&k%65y=b", invalid("Parameter `key` is given twice")),
            ("key=%", invalid("The query has a percent sign that no two hex digits follow")),
            ("key=%4", invalid("The query has a percent sign that no two hex digits follow")),
            ("key=%zz", invalid("The query has a percent sign that no two hex digits follow")),
            ("key=%+1", invalid("The query has a percent sign that no two hex digits follow")),
            ("key=%ff", invalid("The query is not UTF-8")),
            ("key=%ed%a0%80", invalid("The query is not UTF-8")),
            ("other=%c3", invalid("The query is not UTF-8")),
        ] {
            assert_eq!(key(query), expected.map(|value: Option<&str>| value.map(str::to_owned)), "{query}");
        }
    }

    #[test]
    fn numbers_are_whole_and_not_negative() {
        for (text, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("%2B1", None),
            ("+1", None),
            ("1.0", None),
            ("1e3", None),
            ("", None),
            ("0x1", None),
        ] {
            let query = format!("limit={text}");
            let number = Query::parse(Some(&query)).unwrap().number("limit");
            assert_eq!(number.ok().flatten(), expected, "{text}");
        }
    }

    #[test]
    fn two_places_must_agree() {
        assert_eq!(agree("key", Some(1), Some(1)).unwrap(), Some(1));
        assert_eq!(agree("key", Some(1), None).unwrap(), Some(1));
        assert_eq!(agree("key", None::<u8>, None).unwrap(), None);
        assert!(agree("key", Some(1), Some(2)).is_err());
    }
}
