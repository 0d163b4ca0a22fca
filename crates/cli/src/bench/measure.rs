//! The measured run: random requests by schedule, and a tally of what became of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::BytesMut;
use rand::rngs::SmallRng;

use super::answer::Answer;
use super::connection::{Next, Work};
use super::request::Template;
use super::schedule::Schedule;
use super::tally::Tally;
use super::workload::{Operation, Workload};

/// What a thread's connections share.
pub(crate) struct Desk {
    pub(crate) schedule: Schedule,
    pub(crate) tally: Mutex<Tally>,
}

impl Desk {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self { schedule, tally: Mutex::default() }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        locked(&self.tally)
    }
}

/// A tally is whole between any two calls, so that a panic elsewhere does not spoil it.
pub(crate) fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all connections to one node ask with.
pub(crate) struct Stock {
    pub(crate) workload: Arc<Workload>,
    pub(crate) api_keys: Arc<[String]>,
    /// In the order of [`Operation::ALL`].
    pub(crate) templates: [Template; Operation::ALL.len()],
}

/// One connection's part.
pub(crate) struct Measured {
    desk: Arc<Desk>,
    stock: Arc<Stock>,
    random: SmallRng,
    /// Whether the schedule has handed out a turn that was not taken yet.
    has_permit: bool,
}

/// A request under way.
pub(crate) struct Ticket {
    operation: Operation,
    due: Instant,
    is_measured: bool,
}

impl Measured {
    pub(crate) fn new(desk: Arc<Desk>, stock: Arc<Stock>, random: SmallRng) -> Self {
        Self { desk, stock, random, has_permit: false }
    }
}

impl Work for Measured {
    type Ticket = Ticket;

    fn next(&mut self, now: Instant, out: &mut BytesMut) -> Next<Ticket> {
        let turn = self.desk.schedule.take(now, std::mem::take(&mut self.has_permit));
        Next::of(turn, |due| {
            let choice = self.stock.workload.choose(&mut self.random);
            let before = out.len();
            let template = &self.stock.templates[choice.operation as usize];
            template.write(choice.key, &self.stock.api_keys[choice.tenant], out);
            let is_measured = due >= self.desk.schedule.measured_from;
            if is_measured {
                let mut tally = self.desk.tally();
                tally.sent += 1;
                tally.bytes_sent += (out.len() - before) as u64;
            }
            Ticket { operation: choice.operation, due, is_measured }
        })
    }

    async fn later(&mut self) {
        self.desk.schedule.later().await;
        self.has_permit = true;
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        if ticket.is_measured {
            let latency = now.saturating_duration_since(ticket.due);
            let mut tally = self.desk.tally();
            tally.answered(ticket.operation, answer, latency);
            tally.last_answer = Some(now);
        }
    }

    fn unanswered(&mut self, _ticket: Ticket) {
        // It was counted as sent: what is not answered is the difference.
    }

    fn opened(&mut self) {
        self.desk.tally().connections.opened += 1;
    }

    fn broken(&mut self, reason: String) {
        let mut tally = self.desk.tally();
        tally.connections.broken += 1;
        tally.connections.last_reason = Some(reason);
    }

    fn is_over(&self, now: Instant) -> bool {
        self.desk.schedule.is_over(now)
    }
}
