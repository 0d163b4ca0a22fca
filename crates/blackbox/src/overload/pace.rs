//! Requests at a given pace, and as fast as they are answered.
//!
//! In the *open loop* a request is due at its time, whether or not earlier ones were answered, and its latency counts from
//! when it was due: a node that stands still for a second is not asked less meanwhile. Whichever connection is free takes
//! the next request. One that no connection could send for [`LATE_MAX`] is counted as unsent: the load could not be
//! made, and the report says so. In the *closed loop* each connection asks again when it was answered: what comes of it is
//! what the node can serve.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    task::LocalSet,
    time::{sleep_until, timeout},
};

use super::wire::Connection;

/// How long a request may be overdue before it is given up unsent.
const LATE_MAX: Duration = Duration::from_millis(250);
/// The pause before a connection that could not be made is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// How long a new connection waits for its first answer.
const FIRST_ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// What is still under way at the end of a load has this long to be answered.
const LAST_ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// Times, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Times {
    micros: Vec<u32>,
}

impl Times {
    fn push(&mut self, time: Duration) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The time that so many of a thousand stay below; nothing of nothing is zero.
    #[must_use]
    pub fn permille(&self, permille: usize) -> Duration {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * permille).div_ceil(1_000).saturating_sub(1);
        Duration::from_micros(sorted.get(place).copied().unwrap_or(0).into())
    }

    fn append(&mut self, other: &mut Self) {
        self.micros.append(&mut other.micros);
    }
}

/// What came of many requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How long those took that were served, from when they were due.
    pub accepted: Times,
    /// How long those took that were refused with 429 or 503, from when they were sent.
    pub refused: Times,
    /// How many there were of each status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that no connection was free to send in time.
    pub unsent: u64,
    /// Requests whose connection broke, or could not be made.
    pub broken: u64,
    /// What was still unanswered long after the end.
    pub unanswered: u64,
}

impl Tally {
    fn answered(&mut self, status: u16, due: Instant, sent: Instant) {
        let now = Instant::now();
        *self.statuses.entry(status).or_default() += 1;
        match status {
            200 => self.accepted.push(now.saturating_duration_since(due)),
            429 | 503 => self.refused.push(now.saturating_duration_since(sent)),
            _ => {}
        }
    }

    /// Adds what another has.
    pub(super) fn append(&mut self, mut other: Self) {
        self.accepted.append(&mut other.accepted);
        self.refused.append(&mut other.refused);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.unsent += other.unsent;
        self.broken += other.broken;
        self.unanswered += other.unanswered;
    }

    /// How many requests were answered, served or not.
    #[must_use]
    pub fn answered_count(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// How many were answered with neither 200, 429 nor 503.
    #[must_use]
    pub fn odd_count(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| !matches!(status, 200 | 429 | 503)).map(|(_, count)| count).sum()
    }
}

/// Who is asked what.
#[derive(Clone)]
pub(super) struct Target {
    /// Connections are spread over these.
    pub(super) addresses: Rc<[SocketAddr]>,
    /// Asked one after another, again and again.
    pub(super) requests: Rc<[Vec<u8>]>,
}

impl Target {
    pub(super) fn new(addresses: &[SocketAddr], requests: Vec<Vec<u8>>) -> Self {
        Self { addresses: addresses.into(), requests: requests.into() }
    }

    fn address(&self, connection: usize) -> SocketAddr {
        self.addresses[connection % self.addresses.len()]
    }

    fn request(&self, number: u64) -> &[u8] {
        let count = self.requests.len() as u64;
        &self.requests[usize::try_from(number % count).expect("it is below a length")]
    }
}

/// When the requests are due.
struct Pace {
    start: Instant,
    until: Instant,
    /// None: the next is due when somebody can send it.
    per_second: Option<f64>,
    next: Cell<u64>,
    unsent: Cell<u64>,
}

impl Pace {
    /// The next request's number, and when it is due.
    fn take(&self) -> Option<(u64, Instant)> {
        let now = Instant::now();
        loop {
            let number = self.next.replace(self.next.get() + 1);
            let due = match self.per_second {
                None => now,
                #[allow(clippy::cast_precision_loss, reason = "no load has as many requests")]
                Some(per_second) => self.start + Duration::from_secs_f64(number as f64 / per_second),
            };
            if due >= self.until {
                return None;
            }
            if now.saturating_duration_since(due) <= LATE_MAX {
                return Some((number, due));
            }
            self.unsent.set(self.unsent.get() + 1);
        }
    }
}

/// Asks for a time, each connection as fast as it is answered.
pub(super) async fn closed(target: &Target, connections: usize, time: Duration) -> Tally {
    run(target, connections, None, time).await
}

/// Asks for a time, so many a second. The time begins when all connections are made, and answered once.
pub(super) async fn open(target: &Target, connections: usize, per_second: f64, time: Duration) -> Tally {
    run(target, connections, Some(per_second), time).await
}

async fn run(target: &Target, connections: usize, per_second: Option<f64>, time: Duration) -> Tally {
    let connecting = (0..connections).map(|number| first_exchange(target, number));
    let connected = futures_util::future::join_all(connecting).await;
    let start = Instant::now();
    let pace = Rc::new(Pace { start, until: start + time, per_second, next: Cell::default(), unsent: Cell::default() });
    let tally = Rc::new(RefCell::new(Tally::default()));
    let under_way = Rc::new(Cell::new(0));
    let all = LocalSet::new();
    for (number, connection) in connected.into_iter().enumerate() {
        let worker = Worker {
            target: target.clone(),
            address: target.address(number),
            pace: pace.clone(),
            tally: tally.clone(),
            under_way: under_way.clone(),
        };
        all.spawn_local(worker.run(connection));
    }
    let end = pace.until + LAST_ANSWER_WAIT_MAX;
    if tokio::time::timeout_at(end.into(), all).await.is_err() {
        tally.borrow_mut().unanswered = under_way.get();
    }
    let mut tally = tally.take();
    tally.unsent = pace.unsent.get();
    tally
}

/// A connection that a node has answered on. Made is not enough: a system makes connections that its node has not taken in
/// yet, and where many come at once it may be seconds until it does.
async fn first_exchange(target: &Target, number: usize) -> Option<Connection> {
    let exchange = async {
        let mut connection = Connection::open(target.address(number)).await.ok()?;
        let answer = connection.exchange(target.request(number as u64)).await.ok()?;
        (!answer.is_last).then_some(connection)
    };
    timeout(FIRST_ANSWER_WAIT_MAX, exchange).await.ok()?
}

/// One connection.
struct Worker {
    target: Target,
    address: SocketAddr,
    pace: Rc<Pace>,
    tally: Rc<RefCell<Tally>>,
    under_way: Rc<Cell<u64>>,
}

impl Worker {
    async fn run(self, mut connection: Option<Connection>) {
        while let Some((number, due)) = self.pace.take() {
            if due > Instant::now() {
                sleep_until(due.into()).await;
            }
            let Some(open) = &mut connection else {
                self.tally.borrow_mut().broken += 1;
                tokio::time::sleep(RECONNECT_PAUSE).await;
                connection = self.connect().await;
                continue;
            };
            self.under_way.set(self.under_way.get() + 1);
            let sent = Instant::now();
            let answer = open.exchange(self.target.request(number)).await;
            self.under_way.set(self.under_way.get() - 1);
            let is_over = match answer {
                Ok(answer) => {
                    self.tally.borrow_mut().answered(answer.status, due, sent);
                    answer.is_last
                }
                Err(_) => {
                    self.tally.borrow_mut().broken += 1;
                    true
                }
            };
            if is_over {
                connection = self.connect().await;
            }
        }
    }

    async fn connect(&self) -> Option<Connection> {
        Connection::open(self.address).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_their_rank() {
        let mut times = Times::default();
        assert_eq!(times.permille(990), Duration::ZERO);
        (1..=1_000).rev().for_each(|millis| times.push(Duration::from_millis(millis)));
        assert_eq!(times.permille(500), Duration::from_millis(500));
        assert_eq!(times.permille(990), Duration::from_millis(990));
        assert_eq!(times.permille(1_000), Duration::from_millis(1_000));
    }

    #[test]
    fn requests_are_due_at_their_time_and_given_up_when_nobody_could_send_them() {
        let now = Instant::now();
        let start = now.checked_sub(Duration::from_secs(1)).unwrap();
        let pace = Pace {
            start,
            until: now + Duration::from_secs(3_600),
            per_second: Some(10.0),
            next: Cell::default(),
            unsent: Cell::default(),
        };
        let (number, due) = pace.take().unwrap();
        assert!((7..=9).contains(&number), "{number}");
        assert_eq!(due, start + Duration::from_millis(100 * number));
        assert_eq!(pace.unsent.get(), number);
        assert_eq!(pace.take().unwrap().0, number + 1);
    }
}
