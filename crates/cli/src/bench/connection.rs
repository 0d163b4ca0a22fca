//! One connection: requests go out as far as its window allows, answers come back in their order.
//!
//! 1. [`Work`] says what to send and when, and hears what became of it.
//! 2. Requests that may go out together are one write.
//! 3. It writes and reads at the same time: a server that waits for its answers to be taken reads no requests.
//! 4. A connection that breaks, or answers nothing for [`ANSWER_TIMEOUT`], is opened anew.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::answer::{Answer, Reader};
use super::schedule::Turn;
use super::target::{Stream, Target};

/// How long the oldest request may be without an answer: as with the other commands, longer than a server takes to say
/// that an outcome is unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// The pauses before a connection is opened anew, as long as none brings an answer.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a connection is for.
pub(crate) trait Work: Send {
    /// A request under way.
    type Ticket: Send;

    /// Writes the next request to `out`, if there is one to send now.
    fn next(&mut self, now: Instant, out: &mut BytesMut) -> Next<Self::Ticket>;
    /// Waits until [`Self::next`] says something other than [`Next::Later`].
    fn later(&mut self) -> impl Future<Output = ()> + Send;
    /// Takes an answer that came at `now`.
    fn answered(&mut self, ticket: Self::Ticket, answer: Answer, now: Instant);
    /// Takes back a request that gets no answer.
    fn unanswered(&mut self, ticket: Self::Ticket);
    /// Hears that the connection is open.
    fn opened(&mut self);
    /// Hears that the connection broke, or that none came about.
    fn broken(&mut self, reason: String);
    /// Whether there is nothing to send any more.
    fn is_over(&self, now: Instant) -> bool;
}

/// What there is to send.
pub(crate) enum Next<T> {
    Sent(T),
    Later,
    Over,
}

impl<T> Next<T> {
    /// What a turn of a schedule comes to.
    pub(crate) fn of(turn: Turn, send: impl FnOnce(Instant) -> T) -> Self {
        match turn {
            Turn::Send { due } => Self::Sent(send(due)),
            Turn::Later => Self::Later,
            Turn::Over => Self::Over,
        }
    }
}

/// A connection, and opening it anew.
pub(crate) struct Connection<W: Work> {
    pub(crate) target: Arc<Target>,
    pub(crate) work: W,
    /// The most requests without an answer at once; at least 1.
    pub(crate) pipeline: usize,
}

/// Why a connection is left.
enum Left {
    /// There is no more to send.
    Done,
    /// The server closed it in order, with every request answered.
    Closed,
    Broken(String),
}

impl<W: Work> Connection<W> {
    /// Works until there is nothing more to send and everything sent is answered or given up.
    pub(crate) async fn run(mut self, stream: Box<dyn Stream>) {
        let mut open = Some(stream);
        let mut pause = PAUSE_MIN;
        loop {
            let mut stream = match open.take() {
                Some(stream) => stream,
                None if self.work.is_over(Instant::now()) => return,
                None => match self.target.connect().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        self.work.broken(format!("cannot reach {}: {error}", self.target.node));
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                },
            };
            self.work.opened();
            let mut session = Session::new(self.pipeline);
            let left = session.run(&mut self.work, &mut *stream).await;
            for ticket in session.window.drain(..) {
                self.work.unanswered(ticket);
            }
            if session.is_answered {
                pause = PAUSE_MIN;
            }
            match left {
                Left::Done => return,
                Left::Closed => {}
                Left::Broken(reason) => {
                    self.work.broken(format!("{}: {reason}", self.target.node));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// Why no more requests go out for now.
enum Rest {
    /// The window is full, or the server has said that it closes the connection.
    Full,
    Later,
    Over,
}

/// The life of one open connection.
struct Session<T> {
    out: BytesMut,
    inbox: BytesMut,
    reader: Reader,
    /// Requests without an answer, the oldest first.
    window: VecDeque<T>,
    window_max: usize,
    is_answered: bool,
    is_last: bool,
    is_unflushed: bool,
}

impl<T: Send> Session<T> {
    fn new(window_max: usize) -> Self {
        Self {
            out: BytesMut::new(),
            inbox: BytesMut::with_capacity(READ_BYTES),
            reader: Reader::default(),
            window: VecDeque::with_capacity(window_max),
            window_max,
            is_answered: false,
            is_last: false,
            is_unflushed: false,
        }
    }

    async fn run<W: Work<Ticket = T>>(&mut self, work: &mut W, stream: &mut dyn Stream) -> Left {
        let mut patience = pin!(tokio::time::sleep(ANSWER_TIMEOUT));
        let mut heard = Instant::now();
        loop {
            let rest = self.fill(work);
            if self.window.is_empty() {
                match rest {
                    Rest::Over => return Left::Done,
                    Rest::Full => return Left::Closed,
                    Rest::Later => heard = Instant::now(),
                }
            }
            tokio::select! {
                biased;
                read = exchange(stream, &mut self.out, &mut self.inbox, &mut self.is_unflushed) => match read {
                    Ok(()) => {
                        heard = Instant::now();
                        if let Err(reason) = self.take(work, heard) {
                            return Left::Broken(reason);
                        }
                    }
                    Err(error) if self.window.is_empty() && error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Left::Closed;
                    }
                    Err(error) => return Left::Broken(error.to_string()),
                },
                () = work.later(), if matches!(rest, Rest::Later) => {}
                () = patience.as_mut() => {
                    let until = heard + ANSWER_TIMEOUT;
                    if !self.window.is_empty() && Instant::now() >= until {
                        return Left::Broken(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
                    }
                    // Looked at now and then only: setting a timer for each request costs more than the request's bytes.
                    patience.as_mut().reset((until.max(Instant::now()) + PAUSE_MIN).into());
                }
            }
        }
    }

    /// Writes requests until there is a reason not to.
    fn fill<W: Work<Ticket = T>>(&mut self, work: &mut W) -> Rest {
        let mut now = None;
        while !self.is_last && self.window.len() < self.window_max {
            match work.next(*now.get_or_insert_with(Instant::now), &mut self.out) {
                Next::Sent(ticket) => self.window.push_back(ticket),
                Next::Later => return Rest::Later,
                Next::Over => return Rest::Over,
            }
        }
        Rest::Full
    }

    /// Hands out the answers that have arrived.
    fn take<W: Work<Ticket = T>>(&mut self, work: &mut W, now: Instant) -> Result<(), String> {
        while let Some(answer) = self.reader.take(&mut self.inbox).map_err(|error| error.to_string())? {
            let ticket = self.window.pop_front().ok_or("an answer to no request")?;
            self.is_answered = true;
            self.is_last = answer.is_last;
            work.answered(ticket, answer, now);
            if self.is_last && !self.window.is_empty() {
                return Err("the server closed the connection before it answered all".to_owned());
            }
        }
        Ok(())
    }
}

/// Writes what is in `out`, and waits until something is read. Nothing is lost when it is dropped before.
async fn exchange(
    stream: &mut dyn Stream,
    out: &mut BytesMut,
    inbox: &mut BytesMut,
    is_unflushed: &mut bool,
) -> io::Result<()> {
    poll_fn(|context| {
        while !out.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    out.advance(written);
                    *is_unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        // TLS keeps what the socket did not take.
        if *is_unflushed && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(context) {
            flushed?;
            *is_unflushed = false;
        }
        if inbox.capacity() - inbox.len() < READ_BYTES / 2 {
            inbox.reserve(READ_BYTES);
        }
        match pin!(stream.read_buf(inbox)).poll(context) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection without an answer",
            ))),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
