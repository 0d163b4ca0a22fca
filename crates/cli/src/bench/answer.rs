//! Answers out of a stream of bytes: heads by `httparse`, bodies counted and let go, since nobody reads them but for the
//! code of a refusal.

use std::mem;

use api::code::Code;
use bytes::{Buf, BytesMut};
use serde::Deserialize;

/// The longest head, in bytes; a server's are a few hundred.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers of one answer.
const HEADERS_MAX: usize = 64;
/// The most that is kept of a refusal's body, in bytes.
const KEPT_BYTES_MAX: usize = 4096;

/// One answer, read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The code of a refusal, when it has one that this version knows.
    pub(crate) code: Option<Code>,
    /// How long the server asks to wait, in seconds.
    pub(crate) retry_after_seconds: Option<u64>,
    /// Whether the server closes the connection behind it.
    pub(crate) is_last: bool,
    /// How long it was, with its head.
    pub(crate) bytes: u64,
}

/// Why the bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("an answer whose head is no HTTP/1.1: {0}")]
    Head(#[from] httparse::Error),
    #[error("an answer whose head does not end")]
    HeadTooLong,
    #[error("an answer without a length")]
    NoLength,
    #[error("an answer whose chunks are broken")]
    Chunk,
}

/// Reads answers in whatever pieces they arrive.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The answer whose body is being read, and where in it.
    open: Option<(Answer, Body)>,
    kept: Vec<u8>,
    /// What was read of the next answer.
    bytes: u64,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug)]
enum Body {
    Sized { left: u64 },
    ChunkSize,
    Chunk { left: u64 },
    ChunkEnd,
    Trailers,
}

impl Reader {
    /// Takes the next answer out of `bytes`; `None` when it has not arrived to its end.
    ///
    /// # Errors
    /// When the bytes are no answer. The connection is then of no use any more.
    pub(crate) fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
        let before = bytes.len();
        let answer = self.read(bytes)?;
        self.bytes += (before - bytes.len()) as u64;
        Ok(answer.map(|answer| Answer { bytes: mem::take(&mut self.bytes), ..answer }))
    }

    fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
        loop {
            let (answer, body) = match self.open.take() {
                Some(open) => open,
                None => match head(bytes)? {
                    // 100 Continue and its like announce the answer.
                    Some((answer, _)) if answer.status < 200 => continue,
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            match self.body(answer.status >= 300, body, bytes)? {
                Some(rest) => {
                    self.open = Some((answer, rest));
                    return Ok(None);
                }
                None => {
                    let code = if answer.status >= 300 { code(&self.kept) } else { None };
                    self.kept.clear();
                    return Ok(Some(Answer { code, ..answer }));
                }
            }
        }
    }

    /// Reads as much of a body as there is; `None` when that is all of it.
    fn body(&mut self, is_kept: bool, mut body: Body, bytes: &mut BytesMut) -> Result<Option<Body>, Malformed> {
        loop {
            body = match body {
                Body::Sized { left } => {
                    let left = self.pass(is_kept, left, bytes);
                    return Ok((left > 0).then_some(Body::Sized { left }));
                }
                Body::ChunkSize => match httparse::parse_chunk_size(bytes).map_err(|_| Malformed::Chunk)? {
                    httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => return Err(Malformed::Chunk),
                    httparse::Status::Partial => return Ok(Some(body)),
                    httparse::Status::Complete((length, size)) => {
                        bytes.advance(length);
                        if size == 0 { Body::Trailers } else { Body::Chunk { left: size } }
                    }
                },
                Body::Chunk { left } => match self.pass(is_kept, left, bytes) {
                    0 => Body::ChunkEnd,
                    left => return Ok(Some(Body::Chunk { left })),
                },
                Body::ChunkEnd => match line(bytes)? {
                    Some(0) => Body::ChunkSize,
                    Some(_) => return Err(Malformed::Chunk),
                    None => return Ok(Some(body)),
                },
                Body::Trailers => match line(bytes)? {
                    Some(0) => return Ok(None),
                    Some(_) => body,
                    None => return Ok(Some(body)),
                },
            };
        }
    }

    /// Lets up to `left` bytes go, and says how many are still to come.
    fn pass(&mut self, is_kept: bool, left: u64, bytes: &mut BytesMut) -> u64 {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        if is_kept {
            let room = KEPT_BYTES_MAX - self.kept.len();
            self.kept.extend_from_slice(&bytes[..here.min(room)]);
        }
        bytes.advance(here);
        left - here as u64
    }
}

/// Takes a line, and answers its length without its end.
fn line(bytes: &mut BytesMut) -> Result<Option<usize>, Malformed> {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(0) => Err(Malformed::Chunk),
        Some(end) if bytes[end - 1] != b'\r' => Err(Malformed::Chunk),
        Some(end) => {
            bytes.advance(end + 1);
            Ok(Some(end - 1))
        }
        None if bytes.len() > HEAD_BYTES_MAX => Err(Malformed::Chunk),
        None => Ok(None),
    }
}

fn head(bytes: &mut BytesMut) -> Result<Option<(Answer, Body)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes)? else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Malformed::HeadTooLong) } else { Ok(None) };
    };
    let status = response.code.expect("the head is complete");
    let mut answer =
        Answer { status, code: None, retry_after_seconds: None, is_last: response.version == Some(0), bytes: 0 };
    let mut body = match status {
        ..200 | 204 | 304 => Some(Body::Sized { left: 0 }),
        _ => None,
    };
    for header in response.headers.iter() {
        let is = |name| header.name.eq_ignore_ascii_case(name);
        if is("content-length") && body.is_none() {
            body = Some(Body::Sized { left: number(header.value).ok_or(Malformed::NoLength)? });
        } else if is("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked") {
            body = Some(Body::ChunkSize);
        } else if is("connection") {
            answer.is_last |= header.value.eq_ignore_ascii_case(b"close");
        } else if is("retry-after") {
            answer.retry_after_seconds = number(header.value);
        }
    }
    bytes.advance(length);
    Ok(Some((answer, body.ok_or(Malformed::NoLength)?)))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[derive(Deserialize)]
struct Problem {
    code: Code,
}

fn code(body: &[u8]) -> Option<Code> {
    serde_json::from_slice::<Problem>(body).ok().map(|problem| problem.code)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn served() -> Answer {
        Answer { status: 200, code: None, retry_after_seconds: None, is_last: false, bytes: 0 }
    }

    /// All answers of `text`, which arrives in pieces of these lengths and then the rest. Their bytes are those of the text; they
    /// are told without.
    fn read(text: &[u8], pieces: &[usize]) -> Result<Vec<Answer>, Malformed> {
        let (mut reader, mut bytes, mut answers) = (Reader::default(), BytesMut::new(), Vec::new());
        let (mut left, mut counted) = (text, 0);
        for piece in pieces.iter().copied().chain([usize::MAX]) {
            let (now, later) = left.split_at(piece.min(left.len()));
            bytes.extend_from_slice(now);
            left = later;
            while let Some(answer) = reader.take(&mut bytes)? {
                counted += answer.bytes;
                answers.push(Answer { bytes: 0, ..answer });
            }
        }
        assert!(bytes.is_empty(), "{bytes:?} is left");
        assert_eq!(counted, text.len() as u64);
        Ok(answers)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"data\":\"v\"}";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           5;note=x\r\n[\"a\",\r\na\r\n\"b\",\"c\\n\"]\r\n0\r\nx-trailer: 1\r\n\r\n";
    const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: 39\r\n\r\n\
                           {\"title\":\"T\",   \"code\":\"rate_limited\"}\n";
    const LAST: &str = "HTTP/1.1 503 S\r\nconnection: Close\r\ncontent-length: 4\r\n\r\ngone";

    fn limited() -> Answer {
        Answer { status: 429, code: Some(Code::RateLimited), retry_after_seconds: Some(2), is_last: false, bytes: 0 }
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(read(OK.as_bytes(), &[]), Ok(vec![served()]));
        assert_eq!(read(CHUNKED.as_bytes(), &[]), Ok(vec![served()]));
        assert_eq!(read(LIMITED.as_bytes(), &[]), Ok(vec![limited()]));
        let last = Answer { status: 503, is_last: true, ..served() };
        assert_eq!(read(LAST.as_bytes(), &[]), Ok(vec![last]));
        assert_eq!(read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 N\r\n\r\n", &[]).unwrap()[0].status, 204);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (text, error) in [
            ("SSH-2.0-OpenSSH\r\n\r\n", Malformed::Head(httparse::Error::Version)),
            ("HTTP/1.1 200 OK\r\n\r\n", Malformed::NoLength),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Malformed::NoLength),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Malformed::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", Malformed::Chunk),
        ] {
            assert_eq!(read(text.as_bytes(), &[]), Err(error), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(read(endless.as_bytes(), &[]), Err(Malformed::HeadTooLong));
    }

    #[test]
    fn a_long_body_is_let_go_as_it_arrives() {
        let (mut reader, mut bytes) = (Reader::default(), BytesMut::new());
        bytes.extend_from_slice(b"HTTP/1.1 400 B\r\ncontent-length: 1000000\r\n\r\n");
        for _ in 0..1_000 {
            assert_eq!(reader.take(&mut bytes), Ok(None));
            assert!(bytes.is_empty() && reader.kept.len() <= KEPT_BYTES_MAX);
            bytes.extend_from_slice(&[b'x'; 1_000]);
        }
        assert_eq!(reader.take(&mut bytes).unwrap().unwrap().status, 400);
    }

    proptest! {
        #[test]
        fn pieces_and_pipelining_change_nothing(
            order in prop::collection::vec(0..4usize, 1..8),
            pieces in prop::collection::vec(0..60usize, 0..60),
        ) {
            let texts = [OK, CHUNKED, LIMITED, LAST];
            let known = [served(), served(), limited(), Answer { status: 503, is_last: true, ..served() }];
            let text: String = order.iter().map(|index| texts[*index]).collect();
            let expected: Vec<_> = order.iter().map(|index| known[*index]).collect();
            prop_assert_eq!(read(text.as_bytes(), &pieces), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..60usize) {
            // Mutilated answers get further than noise does.
            let mut text = CHUNKED.as_bytes()[..at].to_vec();
            text.extend_from_slice(&bytes);
            let (mut reader, mut bytes) = (Reader::default(), BytesMut::from(text.as_slice()));
            while let Ok(Some(_)) = reader.take(&mut bytes) {}
        }
    }
}
