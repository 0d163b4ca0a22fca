//! A connection's stream, with the times that hyper leaves open.
//!
//! hyper's one timer for heads runs through idleness too, and when it ends, or when a head is too large, the client
//! gets an empty answer or none. So this stream keeps the times, sees the empty answer that hyper writes on its own
//! and holds it back, and hands the socket over to whoever says the last word.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use api::code::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use super::Times;

/// The first line of a request with the longest URL, of 65,534 bytes; a method and a version are shorter than what is left.
const FIRST_LINE_BYTES_MAX: usize = 65_534 + 64;

/// Whether a request is being served. Counts up at each begin and end: odd while one is.
#[derive(Debug, Default)]
pub(crate) struct Activity(AtomicU64);

impl Activity {
    /// A request's head is complete.
    pub(crate) fn request_began(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Its answer is there.
    pub(crate) fn request_ended(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether one is being served now.
    pub(crate) fn is_serving(&self) -> bool {
        is_serving(self.turn())
    }

    fn turn(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

fn is_serving(turn: u64) -> bool {
    turn % 2 == 1
}

/// Why a connection ends with an answer that no handler gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The bytes are no HTTP/1 request.
    NotHttp,
    /// The URL is over 65,534 bytes.
    UrlTooLong,
    /// The head is too large, or has too many headers.
    HeadersTooLarge,
    /// The head did not arrive in time.
    HeadTooSlow,
    /// There are as many connections as there may be.
    TooManyConnections,
}

impl Verdict {
    /// The stable code.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::NotHttp => Code::MalformedRequest,
            Self::UrlTooLong => Code::UrlTooLong,
            Self::HeadersTooLarge => Code::HeadersTooLarge,
            Self::HeadTooSlow => Code::HeadTimeout,
            Self::TooManyConnections => Code::Overloaded,
        }
    }

    /// The whole answer.
    pub(crate) fn answer(self) -> String {
        let (phrase, text) = match self {
            Self::NotHttp => ("Bad Request", "This is no HTTP/1.1 request"),
            Self::UrlTooLong => {
                ("URI Too Long", "The URL is over 65534 bytes; send the key in the body of POST /vs/get or /cache/get")
            }
            Self::HeadersTooLarge => ("Request Header Fields Too Large", "The headers are too large"),
            Self::HeadTooSlow => ("Request Timeout", "The request did not arrive in time"),
            Self::TooManyConnections => ("Service Unavailable", "The node has too many connections; try again shortly"),
        };
        let status = self.code().status();
        let retry = if status == 503 { "retry-after: 1\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
             {retry}connection: close\r\n\r\n{text}",
            text.len()
        )
    }
}

/// A stream that hyper is done with.
pub(crate) struct Ended<S> {
    /// The stream.
    pub(crate) stream: S,
    /// What the client is still to be told.
    pub(crate) verdict: Option<Verdict>,
}

/// The stream as hyper sees it.
pub(crate) struct Watched<S> {
    /// There until drop.
    stream: Option<S>,
    ended: Option<oneshot::Sender<Ended<S>>>,
    times: Times,
    activity: Arc<Activity>,
    /// The turn of `activity` that the next two are about.
    turn: u64,
    head: Head,
    read_timer: Timer,
    write_timer: Timer,
    verdict: Option<Verdict>,
}

/// How much of the next request's head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Nothing,
    /// So many bytes of its first line, which has not come to its end.
    PartOfFirstLine(usize),
    /// Its first line, of so many bytes.
    FirstLine(usize),
}

impl<S> Watched<S> {
    /// Watches `stream`; gives it back through `ended` when it is dropped.
    pub(crate) fn new(stream: S, times: Times, activity: Arc<Activity>, ended: oneshot::Sender<Ended<S>>) -> Self {
        Self {
            stream: Some(stream),
            ended: Some(ended),
            times,
            activity,
            turn: 0,
            head: Head::Nothing,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            verdict: None,
        }
    }

    /// Forgets what was of an earlier request.
    fn catch_up(&mut self) {
        let turn = self.activity.turn();
        if turn != self.turn {
            self.turn = turn;
            self.head = Head::Nothing;
            self.read_timer.disarm();
        }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if is_serving(self.turn) || bytes.is_empty() {
            return;
        }
        if self.head == Head::Nothing {
            self.head = Head::PartOfFirstLine(0);
            self.read_timer.disarm(); // from idleness to the head's own time
        }
        if let Head::PartOfFirstLine(before) = self.head {
            self.head = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => Head::FirstLine(before + end),
                None => Head::PartOfFirstLine(before + bytes.len()),
            };
        }
    }

    /// What to do when nothing arrives: wait, or end the connection.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if is_serving(self.turn) {
            return Poll::Pending;
        }
        match self.head {
            Head::Nothing => {
                ready!(self.read_timer.poll(cx, self.times.idle_max));
                Poll::Ready(Ok(())) // to hyper, the end of the input: an orderly close
            }
            Head::PartOfFirstLine(_) | Head::FirstLine(_) => {
                ready!(self.read_timer.poll(cx, self.times.head_max));
                self.verdict = Some(Verdict::HeadTooSlow);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Whether hyper is writing an answer of its own. Ours are never empty when they are errors.
    fn take_automatic_answer(&mut self, bytes: &[u8]) -> bool {
        let verdict = match bytes.get(..13) {
            Some(b"HTTP/1.1 400 ") => Verdict::NotHttp,
            Some(b"HTTP/1.1 414 ") => Verdict::UrlTooLong,
            Some(b"HTTP/1.1 431 ") => match self.head {
                // The end of a first line that is too long may have come with what was too much.
                Head::PartOfFirstLine(_) => Verdict::UrlTooLong,
                Head::FirstLine(bytes) if bytes > FIRST_LINE_BYTES_MAX => Verdict::UrlTooLong,
                Head::Nothing | Head::FirstLine(_) => Verdict::HeadersTooLarge,
            },
            _ => return false,
        };
        let is_empty = bytes.windows(EMPTY.len()).any(|window| window.eq_ignore_ascii_case(EMPTY));
        if is_empty {
            self.verdict = Some(verdict);
        }
        is_empty
    }
}

const EMPTY: &[u8] = b"\r\ncontent-length: 0\r\n";

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if let (Some(stream), Some(ended)) = (self.stream.take(), self.ended.take()) {
            // Nobody waits for it when the connection's task itself was cut off.
            drop(ended.send(Ended { stream, verdict: self.verdict }));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.catch_up();
        let before = buf.filled().len();
        match Pin::new(this.stream.as_mut().expect("there until drop")).poll_read(cx, buf) {
            Poll::Ready(read) => {
                this.arrived(&buf.filled()[before..]);
                Poll::Ready(read)
            }
            Poll::Pending => this.poll_silence(cx),
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Runs one of the stream's write operations within the time for slow readers.
    fn poll_timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match poll(Pin::new(self.stream.as_mut().expect("there until drop")), cx) {
            Poll::Ready(done) => {
                self.write_timer.disarm();
                Poll::Ready(done)
            }
            Poll::Pending => {
                ready!(self.write_timer.poll(cx, self.times.write_stall_max));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Sets the time for idleness behind an answer: hyper, which has found the input empty while the request was
    /// served, does not read again before something wakes it.
    fn await_idleness(&mut self, cx: &mut Context<'_>) {
        self.catch_up();
        let is_idle = !is_serving(self.turn) && self.head == Head::Nothing;
        if is_idle && self.read_timer.poll(cx, self.times.idle_max).is_ready() {
            // The time was up since the read just before this flush, and nothing would wake the connection: once more.
            self.read_timer.disarm();
            let _ = self.read_timer.poll(cx, self.times.idle_max);
        }
    }

    /// A client that takes a long answer is not idle. A flush says nothing of the kind: hyper flushes whenever it
    /// wakes, also when there is nothing to send.
    fn poll_taken(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_timed(cx, poll));
        if self.head == Head::Nothing {
            self.read_timer.disarm();
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.take_automatic_answer(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        self.poll_taken(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.first().is_some_and(|buf| self.take_automatic_answer(buf)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.poll_taken(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.poll_timed(cx, |stream, cx| stream.poll_flush(cx));
        self.await_idleness(cx);
        flushed
    }

    /// Leaves the closing to the one who gets the stream back, who may have something to say.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_timed(cx, |stream, cx| stream.poll_flush(cx))
    }
}

/// A timer that is set anew again and again.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Ready when `after` has passed since the timer was first polled after being disarmed.
    fn poll(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(after)));
        if !self.armed {
            self.armed = true;
            sleep.as_mut().reset(Instant::now() + after);
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a client is told when hyper has had enough of its head, of which these pieces have come.
    fn verdict_on(pieces: &[&str]) -> Verdict {
        let time = Duration::from_secs(1);
        let times = Times { head_max: time, idle_max: time, write_stall_max: time };
        let (ended, mut end) = oneshot::channel();
        let mut watched = Watched::new(tokio::io::empty(), times, Arc::default(), ended);
        for piece in pieces {
            watched.arrived(piece.as_bytes());
        }
        assert!(watched.take_automatic_answer(b"HTTP/1.1 431 T\r\ncontent-length: 0\r\n\r\n"));
        drop(watched);
        end.try_recv().unwrap().verdict.unwrap()
    }

    #[test]
    fn a_head_that_is_too_large_is_told_from_a_url_that_is_however_it_arrives() {
        let long = "a".repeat(200_000);
        let (url, header) =
            (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), format!("GET / HTTP/1.1\r\nX: {long}"));
        for pieces in [&[&url[..]][..], &[&url[..9], &url[9..]], &[&url[..150_000]], &[&url[..9], &url[9..150_000]]] {
            assert_eq!(verdict_on(pieces), Verdict::UrlTooLong);
        }
        for pieces in [&[&header[..]][..], &[&header[..9], &header[9..]]] {
            assert_eq!(verdict_on(pieces), Verdict::HeadersTooLarge);
        }
    }
}
