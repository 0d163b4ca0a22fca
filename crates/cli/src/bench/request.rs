//! Requests as bytes: all but key and API key is written once, before the run.

use api::path;
use bytes::{BufMut, BytesMut};

use super::keys::{self, COUNTER_PREFIX, KEY_BYTES, VALUE_PREFIX};
use super::workload::{Operation, Store};

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) store: Store,
    pub(crate) value_bytes: usize,
    pub(crate) is_stale: bool,
    /// iterate: how many keys a page has, and how many are passed over before it.
    pub(crate) limit: u64,
    pub(crate) offset: u64,
}

/// A request with two gaps.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    KeyDigits,
    ApiKey,
}

impl Template {
    /// A request of `operation` to the node that is called `host`, whose paths begin with `base`.
    pub(crate) fn new(operation: Operation, shape: &Shape, host: &str, base: &str) -> Self {
        let store = match shape.store {
            Store::Values => path::VS,
            Store::Cache => path::CACHE,
        };
        let route = |of: &str| format!("{base}{}{store}{of}", path::BASE);
        let stale = if shape.is_stale { "&consistency=stale" } else { "" };
        let value = value(shape.value_bytes);
        let mut request = Self(Vec::new());
        match operation {
            Operation::Get => {
                request.text(format!("GET {}?key={VALUE_PREFIX}", route(""))).key().text(stale);
                request.head(host, None);
            }
            Operation::Delete => {
                request.text(format!("DELETE {}?key={VALUE_PREFIX}", route(""))).key();
                request.head(host, None);
            }
            Operation::Iterate => {
                let Shape { limit, offset, .. } = shape;
                let page = format!("?prefix={VALUE_PREFIX}&offset={offset}&limit={limit}{stale}");
                request.text(format!("GET {}{page}", route(path::ITERATE)));
                request.head(host, None);
            }
            Operation::Set => request.post(&route(""), host, VALUE_PREFIX, &format!(r#""value":"{value}""#)),
            Operation::Setnx => {
                request.post(&route(path::SETNX), host, VALUE_PREFIX, &format!(r#""value":"{value}""#));
            }
            // Every value is the same, so that the condition holds wherever the key is there.
            Operation::Cas => {
                let fields = format!(r#""old_value":"{value}","new_value":"{value}""#);
                request.post(&route(path::CAS), host, VALUE_PREFIX, &fields);
            }
            Operation::Bump => request.post(&route(path::BUMP), host, COUNTER_PREFIX, r#""value":"1""#),
        }
        request
    }

    /// Writes the request for a key under an API key.
    pub(crate) fn write(&self, key: u64, api_key: &str, out: &mut BytesMut) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.put_slice(text),
                Part::KeyDigits => keys::write_digits(key, out),
                Part::ApiKey => out.put_slice(api_key.as_bytes()),
            }
        }
    }

    /// A write of a key with further fields.
    fn post(&mut self, route: &str, host: &str, prefix: &str, fields: &str) {
        let before = format!(r#"{{"key":"{prefix}"#);
        let after = format!(r#"",{fields}}}"#);
        let body_bytes = before.len() + KEY_BYTES - prefix.len() + after.len();
        self.text(format!("POST {route}")).head(host, Some(body_bytes)).text(before).key().text(after);
    }

    /// The rest of the request line, and the headers. Refusals come as JSON with a code, since it is asked for.
    fn head(&mut self, host: &str, body_bytes: Option<usize>) -> &mut Self {
        let accept = "application/json, application/problem+json";
        self.text(format!(" HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\nauthorization: Bearer "));
        self.0.push(Part::ApiKey);
        self.text(match body_bytes {
            Some(bytes) => format!("\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n"),
            None => "\r\n\r\n".to_owned(),
        })
    }

    fn text(&mut self, text: impl Into<String>) -> &mut Self {
        self.0.push(Part::Text(text.into().into_bytes()));
        self
    }

    fn key(&mut self) -> &mut Self {
        self.0.push(Part::KeyDigits);
        self
    }
}

/// Letters and digits without a pattern that a compressing disk would gain from, and nothing that JSON escapes.
fn value(bytes: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(ALPHABET[usize::try_from(state >> 58).expect("six bits")])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn written(operation: Operation, shape: &Shape) -> String {
        let mut out = BytesMut::new();
        Template::new(operation, shape, "node:8080", "/at").write(42, "insi_a", &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn shape(store: Store) -> Shape {
        Shape { store, value_bytes: 5, is_stale: false, limit: 7, offset: 3 }
    }

    const HEAD: &str = " HTTP/1.1\r\nhost: node:8080\r\naccept: application/json, application/problem+json\r\n\
                        authorization: Bearer insi_a\r\n";

    #[test]
    fn reads_have_all_in_their_line() {
        let shape = shape(Store::Values);
        let key = "bench/00000000000042";
        assert_eq!(written(Operation::Get, &shape), format!("GET /at/db/api/v1/vs?key={key}{HEAD}\r\n"));
        assert_eq!(written(Operation::Delete, &shape), format!("DELETE /at/db/api/v1/vs?key={key}{HEAD}\r\n"));
        let page = "GET /at/db/api/v1/vs/iterate?prefix=bench/&offset=3&limit=7";
        assert_eq!(written(Operation::Iterate, &shape), format!("{page}{HEAD}\r\n"));
        let stale = Shape { is_stale: true, ..shape };
        let line = format!("GET /at/db/api/v1/vs?key={key}&consistency=stale");
        assert_eq!(written(Operation::Get, &stale), format!("{line}{HEAD}\r\n"));
    }

    #[test]
    fn writes_announce_the_length_of_their_body() {
        let shape = shape(Store::Cache);
        let value = value(5);
        let key = "bench/00000000000042";
        for (operation, line, body) in [
            (Operation::Set, "POST /at/db/api/v1/cache", format!(r#"{{"key":"{key}","value":"{value}"}}"#)),
            (Operation::Setnx, "POST /at/db/api/v1/cache/setnx", format!(r#"{{"key":"{key}","value":"{value}"}}"#)),
            (
                Operation::Cas,
                "POST /at/db/api/v1/cache/cas",
                format!(r#"{{"key":"{key}","old_value":"{value}","new_value":"{value}"}}"#),
            ),
            (
                Operation::Bump,
                "POST /at/db/api/v1/cache/bump",
                r#"{"key":"bench:00000000000042","value":"1"}"#.to_owned(),
            ),
        ] {
            let length = body.len();
            let rest = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
            assert_eq!(written(operation, &shape), format!("{line}{HEAD}{rest}"));
        }
    }

    #[test]
    fn values_have_their_length_and_need_no_escape() {
        for bytes in [0, 1, 100, 1 << 20] {
            let value = value(bytes);
            assert_eq!(value.len(), bytes);
            assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }
    }
}
