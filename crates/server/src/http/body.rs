//! Request bodies: bounded, timed, and read by the handler alone.
//!
//! 1. A [`Payload`] wraps the body unread; a request that is refused before its handler asks never reads it.
//! 2. [`Payload::read`] takes the frames as they arrive, each against the body's bound and against the bytes that all
//!    bodies may have together, so that what a header announces costs nothing.
//! 3. [`parse`] takes the text as JSON, and names the field when it cannot.
//! 4. [`Payload::settle`] runs once the answer is known: it drains a small rest, or says that the connection ends.

use std::{sync::Arc, time::Duration};

use api::request::Object;
use axum::{
    body::Body,
    http::{
        HeaderMap,
        header::{CONTENT_ENCODING, EXPECT, TRANSFER_ENCODING},
    },
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use state::kv;
use tokio::time::{Instant, timeout_at};

use crate::http::{
    error::Error,
    pool::{Holdings, Part, Pool},
};

/// An unread body up to this size is read to its end, so that the connection can be kept.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// How long the rest of a small unread body is waited for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// What a body may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBounds {
    /// The most bytes of one body.
    pub(crate) bytes_max: usize,
    /// The longest time without a byte.
    pub(crate) stall_max: Duration,
    /// The longest time for a whole body.
    pub(crate) time_max: Duration,
}

impl BodyBounds {
    /// The bound that every legal request fits, however its JSON is escaped: cas holds three strings, and one byte
    /// takes six at worst (`docs/api.md` section 1).
    pub(crate) fn bytes_max(value_bytes_max: usize) -> usize {
        18 * value_bytes_max + 4 * 1024
    }

    /// The most bytes of an answer that is made as a whole: a value, of which one byte takes six at worst.
    pub(crate) fn answer_bytes_max(value_bytes_max: usize) -> usize {
        6 * value_bytes_max + 4 * 1024
    }
}

/// A request's body. The bytes that it took of what all bodies have come back when it is dropped.
#[derive(Debug)]
pub(crate) struct Payload {
    body: Body,
    encoded: bool,
    expects_continue: bool,
    progress: Progress,
    part: Part,
    bytes_read: u64,
}

/// How far a body has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untouched,
    Begun,
    Ended,
    /// Broken off, or too slow: nothing more is to be had of it.
    Broken,
}

/// Whether the body comes in another transfer coding than chunks, which are no coding of its content.
fn has_transfer_coding(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.filter_map(|value| value.to_str().ok()).any(|value| !value.trim().eq_ignore_ascii_case("chunked"))
}

impl Payload {
    /// Wraps the body of a request with these headers, whose bytes come out of `pool`.
    pub(crate) fn new(headers: &HeaderMap, body: Body, pool: &Arc<Pool>) -> Self {
        Self {
            body,
            encoded: headers.contains_key(CONTENT_ENCODING) || has_transfer_coding(headers),
            expects_continue: headers.contains_key(EXPECT),
            progress: Progress::Untouched,
            part: Part::new(pool, None),
            bytes_read: 0,
        }
    }

    /// Puts the body on a scope's account, before anything of it is read.
    pub(crate) fn charge_to(&mut self, holdings: Arc<Holdings>) -> Result<(), Error> {
        self.part.charge_to(holdings)
    }

    /// How many bytes have been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// 415 for an encoded one; 400 for one over the bound, unread when its length says so, or not UTF-8, or broken
    /// off; 408 for one that stalls; 503 when all bodies, or those of the scope, have as many bytes as they may.
    pub(crate) async fn read(&mut self, bounds: BodyBounds) -> Result<String, Error> {
        if self.encoded {
            return Err(Error::EncodedBody);
        }
        if self.body.size_hint().lower() > bounds.bytes_max as u64 {
            return Err(Error::Bound(kv::Invalid::ValueTooLarge));
        }
        let deadline = Instant::now() + bounds.time_max;
        let mut bytes = match self.frame(bounds.stall_max, deadline).await? {
            None => return Ok(String::new()),
            Some(first) => {
                self.charge(first.len(), bounds.bytes_max)?;
                Vec::from(first)
            }
        };
        while let Some(frame) = self.frame(bounds.stall_max, deadline).await? {
            self.charge(frame.len(), bounds.bytes_max)?;
            bytes.extend_from_slice(&frame);
        }
        String::from_utf8(bytes).map_err(|_| Error::MalformedBody("The body is not UTF-8".into()))
    }

    fn charge(&mut self, bytes: usize, bytes_max: usize) -> Result<(), Error> {
        self.bytes_read += bytes as u64;
        if self.bytes_read > bytes_max as u64 {
            return Err(Error::Bound(kv::Invalid::ValueTooLarge));
        }
        self.part.add(bytes)
    }

    /// The next piece of data; none at the end.
    async fn frame(&mut self, stall_max: Duration, deadline: Instant) -> Result<Option<Bytes>, Error> {
        while self.progress != Progress::Ended && !self.body.is_end_stream() {
            self.progress = Progress::Begun;
            let stalled = deadline.min(Instant::now() + stall_max);
            match timeout_at(stalled, self.body.frame()).await {
                Err(_) => {
                    self.progress = Progress::Broken;
                    return Err(Error::BodyTimeout);
                }
                Ok(Some(Err(_))) => {
                    self.progress = Progress::Broken;
                    return Err(Error::MalformedBody("The body is broken off or badly framed".into()));
                }
                Ok(None) => self.progress = Progress::Ended,
                // A frame that is no data is trailers: nothing to us.
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Leaves the body in a state in which the connection can go on; false when it cannot. A client that waits for
    /// `100 Continue` is not asked to send what nobody will read.
    pub(crate) async fn settle(&mut self) -> bool {
        if self.progress == Progress::Ended || self.body.is_end_stream() {
            return true;
        }
        let awaits_leave = self.expects_continue && self.progress == Progress::Untouched;
        let large = self.body.size_hint().lower() > DRAIN_BYTES_MAX;
        if self.progress == Progress::Broken || awaits_leave || large {
            return false;
        }
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        let mut drained_bytes = 0;
        loop {
            match self.frame(DRAIN_TIME_MAX, deadline).await {
                Ok(None) => return true,
                Ok(Some(data)) => drained_bytes += data.len() as u64,
                Err(_) => return false,
            }
            if drained_bytes > DRAIN_BYTES_MAX {
                return false;
            }
        }
    }
}

/// Takes a body as JSON.
///
/// # Errors
/// 400, which names the field, and never repeats what the client sent.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    match serde_json::from_str::<Object<T>>(text) {
        Ok(Object(body)) => Ok(body),
        Err(error) => Err(explain::<T>(text, &error)),
    }
}

/// Reads the text once more, slowly, to learn which field is wrong.
fn explain<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Error {
    if !error.is_data() {
        return Error::MalformedBody("The body is not JSON".into());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(located) = serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) else {
        return Error::MalformedBody("The body is not JSON".into());
    };
    let path = located.path().to_string();
    let message = located.inner().to_string();
    // serde names missing and doubled fields from our own structs; all else in its message may be the client's.
    for (start, fault) in [("missing field `", "is missing"), ("duplicate field `", "is given twice")] {
        if let Some(field) = message.strip_prefix(start).and_then(|rest| rest.split('`').next()) {
            return Error::invalid(format!("Field `{field}` {fault}"));
        }
    }
    match path.as_str() {
        "." => Error::MalformedBody("The body is not a JSON object".into()),
        field => Error::invalid(format!("Field `{field}` must be {}", expected(&message))),
    }
}

/// What serde expected, in words for people.
fn expected(message: &str) -> &'static str {
    let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    match expected.split(" at line ").next().unwrap_or_default() {
        "a string" => "a string",
        "u64" => "a whole number, 0 or more",
        "i64" => "a whole number",
        "an object" => "an object",
        _ => "of another type",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use api::request;

    use super::*;
    use crate::http::pool::Resource;

    fn fault<T: DeserializeOwned>(text: &str) -> String {
        parse::<T>(text).map(drop).unwrap_err().describe().text.into_owned()
    }

    #[test]
    fn faults_name_the_field_and_never_its_value() {
        for (text, expected) in [
            ("", "The body is not JSON"),
            ("{", "The body is not JSON"),
            (r#"{"key":"a","value":"b"}x"#, "The body is not JSON"),
            (r#"{"key":"\ud800","value":"b"}"#, "The body is not JSON"),
            (r#"["a","b"]"#, "The body is not a JSON object"),
            ("null", "The body is not a JSON object"),
            (r#""secret""#, "The body is not a JSON object"),
            (r#"{"key":"a"}"#, "Field `value` is missing"),
            (r#"{"value":"b"}"#, "Field `key` is missing"),
            (r#"{"key":null,"value":"b"}"#, "Field `key` must be a string"),
            (r#"{"key":5,"value":"b"}"#, "Field `key` must be a string"),
            (r#"{"key":"a","value":{"secret":1}}"#, "Field `value` must be a string"),
            (r#"{"key":"a","key":"a","value":"b"}"#, "Field `key` is given twice"),
        ] {
            assert_eq!(fault::<request::Set>(text), expected, "{text}");
        }
        for (text, expected) in [
            (r#"{"api_key":"a"}"#, "Field `limits` is missing"),
            (r#"{"api_key":"a","limits":[1,2,3]}"#, "Field `limits` must be an object"),
            (
                r#"{"api_key":"a","limits":{"bytes_on_disk":"9"}}"#,
                "Field `limits.bytes_on_disk` must be a whole number",
            ),
            (
                r#"{"api_key":"a","limits":{"bytes_on_disk":null}}"#,
                "Field `limits.bytes_on_disk` must be a whole number",
            ),
            (r#"{"api_key":"a","key":"a","limits":{}}"#, "Field `api_key` is given twice"),
        ] {
            assert_eq!(fault::<request::SetLimits>(text), expected, "{text}");
        }
        assert_eq!(fault::<request::Iterate>(r#"{"limit":-1}"#), "Field `limit` must be a whole number, 0 or more");
        assert_eq!(fault::<request::Iterate>(r#"{"prefix":null}"#), "Field `prefix` must be a string");
    }

    #[test]
    fn all_text_is_legal() {
        let set = parse::<request::Set>(r#" {"x":{"y":[1]},"key":"\u0000€\ud83d\ude00","value":""} "#).unwrap();
        assert_eq!((set.key.as_str(), set.value.as_str()), ("\0€😀", ""));
    }

    fn payload(body: Body, pool: &Arc<Pool>) -> Payload {
        Payload::new(&HeaderMap::new(), body, pool)
    }

    fn pool() -> Arc<Pool> {
        Pool::new(Resource::BodyBytes, 15, 10)
    }

    const BOUNDS: BodyBounds =
        BodyBounds { bytes_max: 10, stall_max: Duration::from_millis(20), time_max: Duration::from_secs(5) };

    #[tokio::test]
    async fn bodies_are_bounded_and_their_bytes_come_back() {
        let pool = pool();
        let mut first = payload(Body::from("0123456789"), &pool);
        assert_eq!(first.read(BOUNDS).await.unwrap(), "0123456789");
        let mut second = payload(Body::from("012345"), &pool);
        assert!(matches!(second.read(BOUNDS).await, Err(Error::Overloaded)));
        drop(first);
        let mut third = payload(Body::from("0123456"), &pool);
        assert_eq!(third.read(BOUNDS).await.unwrap(), "0123456");
        let mut long = payload(Body::from("0123456789a"), &pool);
        assert!(matches!(long.read(BOUNDS).await, Err(Error::Bound(kv::Invalid::ValueTooLarge))));
        assert_eq!(long.bytes_read(), 0, "its length says enough");
        let mut broken = payload(Body::from(vec![0xff]), &pool);
        assert_eq!(broken.read(BOUNDS).await.unwrap_err().describe().text, "The body is not UTF-8");
        drop((second, third, long, broken));
        assert_eq!(pool.taken(), 0);
    }

    #[tokio::test]
    async fn a_stalled_body_is_given_up() {
        let pool = pool();
        let stream = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let mut stalled = payload(Body::from_stream(stream), &pool);
        assert!(matches!(stalled.read(BOUNDS).await, Err(Error::BodyTimeout)));
        assert!(!stalled.settle().await);
    }
}
