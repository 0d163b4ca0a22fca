//! What became of the requests. Each thread has a tally of its own; they are added up for what is shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::code::Code;
use hdrhistogram::Histogram;

use super::answer::Answer;
use super::workload::Operation;

/// The longest latency that is told from longer ones, in microseconds: an hour.
const MICROS_MAX: u64 = 3_600_000_000;

/// Latencies in microseconds, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are legal")
}

/// One operation's answers.
#[derive(Clone)]
pub(crate) struct Served {
    /// How many were the expected negative: no such key, or a condition that does not hold. They are among the latencies.
    pub(crate) negative: u64,
    pub(crate) latency: Histogram<u64>,
}

/// What was counted, after the warm-up alone.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// When the last answer came.
    pub(crate) last_answer: Option<Instant>,
    served: [Option<Served>; Operation::ALL.len()],
    /// Answers that did not serve, by status and code. They are quick, and are in no latency.
    pub(crate) refusals: BTreeMap<(u16, &'static str), Refusals>,
    pub(crate) connections: Connections,
    interval: Interval,
}

/// Answers of one kind that did not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) code: Option<Code>,
    pub(crate) count: u64,
}

/// How the connections fared, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    /// Those that broke, and those that did not come about.
    pub(crate) broken: u64,
    pub(crate) last_reason: Option<String>,
}

/// What was answered since the last look.
#[derive(Clone)]
pub(crate) struct Interval {
    pub(crate) refused: u64,
    pub(crate) latency: Histogram<u64>,
}

impl Default for Interval {
    fn default() -> Self {
        Self { refused: 0, latency: histogram() }
    }
}

impl Tally {
    /// Counts an answer, and how long after its request was due it came.
    pub(crate) fn answered(&mut self, operation: Operation, answer: Answer, latency: Duration) {
        let Answer { status, code, bytes, .. } = answer;
        self.bytes_received += bytes;
        let is_negative = matches!(code, Some(Code::KeyNotFound | Code::KeyExists | Code::ValueDiffers));
        if !is_negative && !(200..300).contains(&status) {
            let text = code.map_or("", Code::as_str);
            self.refusals.entry((status, text)).or_insert(Refusals { code, count: 0 }).count += 1;
            self.interval.refused += 1;
            return;
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX);
        let served =
            self.served[operation as usize].get_or_insert_with(|| Served { negative: 0, latency: histogram() });
        served.negative += u64::from(is_negative);
        served.latency.saturating_record(micros);
        self.interval.latency.saturating_record(micros);
    }

    /// Takes what was answered since this was called last.
    pub(crate) fn take_interval(&mut self) -> Interval {
        std::mem::take(&mut self.interval)
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { sent, bytes_sent, bytes_received, last_answer, served, refusals, connections, interval } = other;
        self.sent += sent;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
        self.last_answer = self.last_answer.max(*last_answer);
        for (mine, theirs) in self.served.iter_mut().zip(served) {
            match (mine.as_mut(), theirs) {
                (Some(mine), Some(theirs)) => {
                    mine.negative += theirs.negative;
                    mine.latency += &theirs.latency;
                }
                (None, Some(theirs)) => *mine = Some(theirs.clone()),
                (_, None) => {}
            }
        }
        for (kind, theirs) in refusals {
            self.refusals.entry(*kind).or_insert(Refusals { code: theirs.code, count: 0 }).count += theirs.count;
        }
        self.connections.opened += connections.opened;
        self.connections.broken += connections.broken;
        if let Some(reason) = &connections.last_reason {
            self.connections.last_reason = Some(reason.clone());
        }
        self.add_interval(interval);
    }

    /// Adds another thread's answers since the last look.
    pub(crate) fn add_interval(&mut self, other: &Interval) {
        self.interval.refused += other.refused;
        self.interval.latency += &other.latency;
    }

    /// The answers of each operation that has any.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (Operation, &Served)> {
        Operation::ALL
            .into_iter()
            .zip(&self.served)
            .filter_map(|(operation, served)| Some((operation, served.as_ref()?)))
    }

    /// All operations' answers as one.
    pub(crate) fn all(&self) -> Served {
        let mut all = Served { negative: 0, latency: histogram() };
        for (_, served) in self.operations() {
            all.negative += served.negative;
            all.latency += &served.latency;
        }
        all
    }

    /// How many answers did not serve.
    pub(crate) fn refused(&self) -> u64 {
        self.refusals.values().map(|refusals| refusals.count).sum()
    }

    /// How many requests were answered, in whatever way.
    pub(crate) fn answers(&self) -> u64 {
        self.operations().map(|(_, served)| served.latency.len()).sum::<u64>() + self.refused()
    }

    /// How many requests are without an answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.sent.saturating_sub(self.answers())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(status: u16, code: Option<Code>) -> Answer {
        Answer { status, code, retry_after_seconds: None, is_last: false, bytes: 0 }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut tally = Tally::default();
        for millis in 1..=1_000 {
            tally.sent += 1;
            tally.answered(Operation::Get, answer(200, None), millis * MS);
        }
        let latency = tally.all().latency;
        for (quantile, micros) in [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000), (0.999, 999_000), (1.0, 1_000_000)]
        {
            let found = latency.value_at_quantile(quantile);
            assert!(found.abs_diff(micros) * 1_000 <= micros, "{quantile}: {found}");
        }
        assert_eq!((latency.len(), tally.unanswered()), (1_000, 0));
        assert!((latency.mean() - 500_500.0).abs() < 500.0);
    }

    #[test]
    fn only_what_was_served_has_a_latency() {
        let mut tally = Tally { sent: 7, ..Tally::default() };
        tally.answered(Operation::Get, answer(200, None), MS);
        tally.answered(Operation::Get, answer(404, Some(Code::KeyNotFound)), MS);
        tally.answered(Operation::Cas, answer(409, Some(Code::ValueDiffers)), MS);
        for (status, code) in
            [(429, Some(Code::RateLimited)), (503, Some(Code::NoLeader)), (404, Some(Code::RouteNotFound))]
        {
            tally.answered(Operation::Get, answer(status, code), 1_000 * MS);
        }
        let all = tally.all();
        assert_eq!((all.latency.len(), all.negative), (3, 2));
        assert!(all.latency.max() < 2_000);
        assert_eq!((tally.refused(), tally.answers(), tally.unanswered()), (3, 6, 1));
        assert_eq!(tally.refusals[&(429, "rate_limited")].count, 1);
    }

    #[test]
    fn threads_add_up_and_an_interval_is_taken_once() {
        let mut first = Tally { sent: 3, ..Tally::default() };
        first.answered(Operation::Get, answer(200, None), MS);
        first.answered(Operation::Get, answer(429, Some(Code::RateLimited)), MS);
        let mut sum = first.clone();
        sum.answered(Operation::Set, answer(200, None), MS);
        sum.add(&first);
        assert_eq!((sum.sent, sum.answers(), sum.unanswered()), (6, 5, 1));
        assert_eq!(
            sum.operations().map(|(operation, _)| operation).collect::<Vec<_>>(),
            [Operation::Get, Operation::Set]
        );
        let interval = sum.take_interval();
        assert_eq!((interval.latency.len(), interval.refused), (3, 2));
        assert_eq!(sum.take_interval().latency.len(), 0);
    }
}
