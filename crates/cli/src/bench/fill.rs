//! Setting every key once, before reads are measured. What is refused for the moment, or lost with a connection, is
//! sent again: to set a key to the same value twice does no harm.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::watch;

use super::answer::Answer;
use super::connection::{Next, Work};
use super::request::Template;

/// The pause before a refused request is sent again, when the server asks for none.
const PAUSE: Duration = Duration::from_millis(100);

/// All keys of all tenants, and how far it has come.
pub(crate) struct Fill {
    keys: u64,
    api_keys: Arc<[String]>,
    begun: AtomicU64,
    done: AtomicU64,
    stop: watch::Receiver<bool>,
    /// Why the last request was not served.
    trouble: Mutex<Option<Trouble>>,
}

/// Why a request of the fill was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection broke, or none came about.
    Broken(String),
    /// It was refused.
    Refused(Answer),
}

impl Trouble {
    /// Whether the same request may be served a little later.
    fn passes(&self) -> bool {
        match self {
            Self::Broken(_) => true,
            Self::Refused(answer) => matches!(answer.status, 408 | 429 | 503),
        }
    }
}

impl Fill {
    /// `stop` ends it early.
    pub(crate) fn new(keys: u64, api_keys: Arc<[String]>, stop: watch::Receiver<bool>) -> Self {
        let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { keys, api_keys, begun, done, stop, trouble: Mutex::new(None) }
    }

    /// How many sets there are to do.
    pub(crate) fn total(&self) -> u64 {
        self.keys.saturating_mul(self.api_keys.len() as u64)
    }

    /// How many are done.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// What went wrong last, if anything.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong, if it will not pass.
    pub(crate) fn lasting_trouble(&self) -> Option<Trouble> {
        self.trouble().filter(|trouble| !trouble.passes())
    }

    fn note(&self, trouble: Trouble) {
        let mut noted = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // What will not pass is what has to be told.
        if noted.as_ref().is_none_or(Trouble::passes) {
            *noted = Some(trouble);
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

/// One connection's part.
pub(crate) struct Filling {
    fill: Arc<Fill>,
    template: Arc<Template>,
    /// What has to be sent again.
    again: Vec<u64>,
    not_before: Option<Instant>,
}

impl Filling {
    /// `template` is the node's request to set a key.
    pub(crate) fn new(fill: Arc<Fill>, template: Arc<Template>) -> Self {
        Self { fill, template, again: Vec::new(), not_before: None }
    }

    fn next_number(&mut self) -> Option<u64> {
        self.again.pop().or_else(|| {
            let number = self.fill.begun.fetch_add(1, Ordering::Relaxed);
            (number < self.fill.total()).then_some(number)
        })
    }
}

impl Work for Filling {
    type Ticket = u64;

    fn next(&mut self, now: Instant, out: &mut BytesMut) -> Next<u64> {
        if self.fill.is_stopped() {
            return Next::Over;
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Next::Later;
        }
        self.not_before = None;
        let Some(number) = self.next_number() else { return Next::Over };
        let tenant = usize::try_from(number / self.fill.keys).expect("below the number of API keys");
        self.template.write(number % self.fill.keys, &self.fill.api_keys[tenant], out);
        Next::Sent(number)
    }

    async fn later(&mut self) {
        match self.not_before {
            Some(time) => tokio::time::sleep_until(time.into()).await,
            None => std::future::pending().await,
        }
    }

    fn answered(&mut self, number: u64, answer: Answer, now: Instant) {
        if (200..300).contains(&answer.status) {
            self.fill.done.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let pause = answer.retry_after_seconds.map_or(PAUSE, Duration::from_secs);
        self.not_before = Some(now + pause.clamp(PAUSE, Duration::from_secs(5)));
        self.again.push(number);
        self.fill.note(Trouble::Refused(answer));
    }

    fn unanswered(&mut self, number: u64) {
        self.again.push(number);
    }

    fn opened(&mut self) {}

    fn broken(&mut self, reason: String) {
        self.fill.note(Trouble::Broken(reason));
    }

    fn is_over(&self, _now: Instant) -> bool {
        let is_begun = self.fill.begun.load(Ordering::Relaxed) >= self.fill.total();
        self.fill.is_stopped() || (is_begun && self.again.is_empty())
    }
}
