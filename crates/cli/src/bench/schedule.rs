//! When the next request goes out.
//!
//! - **Closed loop**: as soon as an answer makes room. A server that stalls is asked less meanwhile.
//! - **Open loop**: each request is due at its time, whatever became of the ones before, and its latency counts from
//!   when it was due. So a stall is in the latency of all requests that fell due in it, and not in that of one request a
//!   connection: leaving them out is what Gil Tene calls coordinated omission.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::alarm::Alarm;

/// When an open loop's requests are due: the share of one thread in a common rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    /// When the first request of all is due.
    pub(crate) start: Instant,
    /// Requests a second of all threads together; at least 1.
    pub(crate) per_second: u64,
    /// How many threads take turns, and which of them this is.
    pub(crate) threads: u64,
    pub(crate) thread: u64,
}

const NANOS: u128 = 1_000_000_000;

impl Timetable {
    /// When this thread's request of this number is due.
    pub(crate) fn due(&self, number: u64) -> Instant {
        let of_all = u128::from(number) * u128::from(self.threads) + u128::from(self.thread);
        let nanos = of_all * NANOS / u128::from(self.per_second);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many of this thread's requests are due at `at`.
    pub(crate) fn due_by(&self, at: Instant) -> u64 {
        let Some(passed) = at.checked_duration_since(self.start) else { return 0 };
        let last_of_all = ((passed.as_nanos() + 1) * u128::from(self.per_second) - 1) / NANOS;
        let mine = last_of_all.checked_sub(u128::from(self.thread)).map_or(0, |n| n / u128::from(self.threads) + 1);
        u64::try_from(mine).unwrap_or(u64::MAX)
    }
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// This long after the warm-up.
    After(Duration),
    /// After so many requests of this thread that came after the warm-up.
    Requests(u64),
}

/// What a connection may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Send one request; its latency counts from here.
    Send { due: Instant },
    /// Nothing is due.
    Later,
    /// Send nothing any more.
    Over,
}

/// The turns of one thread's connections.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// What is due before is not counted.
    pub(crate) measured_from: Instant,
    ends: Option<Instant>,
    stop: watch::Receiver<bool>,
    /// How many requests were handed out: in a closed loop, after the warm-up alone.
    given: AtomicU64,
    given_max: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    timetable: Timetable,
    /// One for each request that is due and not handed out.
    due: Semaphore,
}

/// What is due at the end may go out for so long behind it: otherwise every slip of the scheduler would leave some unsent.
const GRACE: Duration = Duration::from_millis(100);

/// The shortest wait between two looks at what is due: what falls due meanwhile goes out together. Without it, a rate that
/// is too high would leave the thread no time to send anything.
const PACE_MIN: Duration = Duration::from_micros(20);

/// More permits than connections ask for, to wake all that wait.
const PERMITS_FOR_ALL: usize = 1 << 32;

impl Schedule {
    /// Begins at `start`; with a timetable it is an open loop. `stop` ends it early.
    pub(crate) fn new(
        start: Instant,
        warmup: Duration,
        end: End,
        timetable: Option<Timetable>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let measured_from = start + warmup;
        let ends = match end {
            End::After(duration) => Some(measured_from + duration),
            End::Requests(_) => None,
        };
        let just_before = |at: Instant| at - Duration::from_nanos(1);
        let given_max = match (end, &timetable) {
            (End::Requests(count), None) => count,
            (End::Requests(count), Some(timetable)) => timetable.due_by(just_before(measured_from)) + count,
            (End::After(_), None) => u64::MAX,
            (End::After(duration), Some(timetable)) => timetable.due_by(just_before(measured_from + duration)),
        };
        let open = timetable.map(|timetable| Open { timetable, due: Semaphore::new(0) });
        Self { measured_from, ends, stop, given: AtomicU64::new(0), given_max, open }
    }

    /// When it ends by itself, if the time says so.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// When the first request behind the last one of an open loop would be due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.timetable.due(self.given_max))
    }

    /// Whether nothing is sent any more.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let grace = if self.open.is_some() { GRACE } else { Duration::ZERO };
        self.ends.is_some_and(|ends| now >= ends + grace)
            || self.given.load(Ordering::Relaxed) >= self.given_max
            || *self.stop.borrow()
    }

    /// The next turn. `has_permit` says that [`Self::later`] was waited for.
    pub(crate) fn take(&self, now: Instant, has_permit: bool) -> Turn {
        if self.is_over(now) {
            return Turn::Over;
        }
        let Some(open) = &self.open else {
            if now >= self.measured_from && self.given.fetch_add(1, Ordering::Relaxed) >= self.given_max {
                return Turn::Over;
            }
            return Turn::Send { due: now };
        };
        if !has_permit {
            match open.due.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(_) => return Turn::Later,
            }
        }
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        if number >= self.given_max {
            return Turn::Over;
        }
        Turn::Send { due: open.timetable.due(number) }
    }

    /// Waits until a request is due, or the run is over.
    pub(crate) async fn later(&self) {
        match &self.open {
            Some(open) => open.due.acquire().await.expect("it is never closed").forget(),
            None => std::future::pending().await,
        }
    }

    /// Makes an open loop's requests due, each at its time. Ends when there are no more, or the run is stopped.
    pub(crate) async fn pace(&self, alarm: Alarm) {
        let Some(open) = &self.open else { return };
        let mut stop = self.stop.clone();
        let mut made_due = 0;
        while made_due < self.given_max {
            let now = Instant::now();
            let due = open.timetable.due_by(now).min(self.given_max);
            open.due.add_permits(usize::try_from(due - made_due).expect("a run's requests fit into memory"));
            made_due = due;
            tokio::select! {
                () = alarm.until(open.timetable.due(made_due).max(now + PACE_MIN)) => {}
                _ = stop.wait_for(|is_stopped| *is_stopped) => break,
            }
        }
        open.due.add_permits(PERMITS_FOR_ALL);
    }

    /// How many requests of an open loop were due at `at` and not sent.
    pub(crate) fn unsent(&self, at: Instant) -> u64 {
        let given = self.given.load(Ordering::Relaxed);
        let due = |open: &Open| open.timetable.due_by(at).min(self.given_max);
        self.open.as_ref().map_or(0, |open| due(open).saturating_sub(given))
    }

    /// When the oldest of those was due.
    pub(crate) fn oldest_unsent(&self, at: Instant) -> Option<Instant> {
        let open = self.open.as_ref()?;
        (self.unsent(at) > 0).then(|| open.timetable.due(self.given.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(per_second: u64, threads: u64, thread: u64) -> Timetable {
        Timetable { start: Instant::now(), per_second, threads, thread }
    }

    #[test]
    fn threads_take_turns_in_one_rate() {
        let start = Instant::now();
        let [first, second] = [0, 1].map(|thread| Timetable { start, per_second: 1_000, threads: 2, thread });
        let after = |micros| start + Duration::from_micros(micros);
        assert_eq!([first.due(0), second.due(0), first.due(1)], [after(0), after(1_000), after(2_000)]);
        assert_eq!([first.due_by(after(0)), second.due_by(after(0))], [1, 0]);
        assert_eq!([first.due_by(after(2_000)), second.due_by(after(2_000))], [2, 1]);
        assert_eq!(first.due_by(after(1_999_999)) + second.due_by(after(1_999_999)), 2_000);
        assert_eq!(first.due_by(start - Duration::from_nanos(1)), 0);
    }

    #[test]
    fn what_is_due_is_due_at_its_time_and_not_before() {
        for per_second in [1, 3, 7, 999, 1_000_000, 123_456_789] {
            for (threads, thread) in [(1, 0), (3, 2)] {
                let timetable = timetable(per_second, threads, thread);
                for number in [0, 1, 2, 1_000, 12_345] {
                    let due = timetable.due(number);
                    assert!(timetable.due_by(due) > number, "{per_second}/s, {number}");
                    if number > 0 && per_second < 100_000_000 {
                        assert_eq!(timetable.due_by(due - Duration::from_nanos(1)), number, "{per_second}/s");
                    }
                }
            }
        }
    }

    fn schedule(end: End, warmup: Duration, is_open: bool) -> (Schedule, Instant, watch::Sender<bool>) {
        let (stop, stopped) = watch::channel(false);
        let start = Instant::now();
        let timetable = Timetable { start, per_second: 1_000, threads: 1, thread: 0 };
        (Schedule::new(start, warmup, end, is_open.then_some(timetable), stopped), start, stop)
    }

    #[test]
    fn a_closed_loop_sends_at_once_until_its_end() {
        let (by_count, start, _stop) = schedule(End::Requests(2), Duration::from_secs(1), false);
        let measured = start + Duration::from_secs(1);
        for now in [start, start, start, measured, measured] {
            assert_eq!(by_count.take(now, false), Turn::Send { due: now });
        }
        assert_eq!(by_count.take(measured, false), Turn::Over);

        let (by_time, start, stop) = schedule(End::After(Duration::from_secs(5)), Duration::from_secs(1), false);
        assert_eq!(by_time.take(start, false), Turn::Send { due: start });
        assert_eq!(by_time.take(start + Duration::from_secs(6), false), Turn::Over);
        stop.send_replace(true);
        assert_eq!(by_time.take(start, false), Turn::Over);
    }

    #[test]
    fn an_open_loop_has_as_many_requests_as_its_time_holds() {
        for (end, warmup, count) in [
            (End::After(Duration::from_secs(2)), Duration::ZERO, 2_000),
            (End::After(Duration::from_secs(2)), Duration::from_secs(1), 3_000),
            (End::Requests(10), Duration::from_secs(1), 1_010),
            (End::Requests(10), Duration::ZERO, 10),
        ] {
            assert_eq!(schedule(end, warmup, true).0.given_max, count, "{end:?} {warmup:?}");
        }
    }

    #[test]
    fn what_was_due_and_not_sent_is_counted() {
        let (schedule, start, _stop) = schedule(End::After(Duration::from_secs(2)), Duration::ZERO, true);
        assert_eq!(schedule.take(start, false), Turn::Later);
        assert_eq!(schedule.take(start, true), Turn::Send { due: start });
        assert_eq!(schedule.take(start, true), Turn::Send { due: start + Duration::from_millis(1) });
        let later = start + Duration::from_millis(9);
        assert_eq!(
            (schedule.unsent(later), schedule.oldest_unsent(later)),
            (8, Some(start + Duration::from_millis(2)))
        );
        assert_eq!(schedule.unsent(start + Duration::from_secs(60)), 1_998);
    }
    #[tokio::test]
    async fn a_rate_that_is_too_high_leaves_time_to_send() {
        let (stop, stopped) = watch::channel(false);
        let start = Instant::now();
        let timetable = Timetable { start, per_second: 100_000_000, threads: 1, thread: 0 };
        let end = End::After(Duration::from_secs(3_600));
        let schedule = Schedule::new(start, Duration::ZERO, end, Some(timetable), stopped);
        let sender = async {
            for _ in 0..1_000 {
                schedule.later().await;
                assert!(matches!(schedule.take(Instant::now(), true), Turn::Send { .. }));
                tokio::task::yield_now().await;
            }
            stop.send_replace(true);
        };
        tokio::join!(schedule.pace(Alarm::new().expect("a timer")), sender);
        // What waits when it is stopped is woken.
        schedule.later().await;
        assert_eq!(schedule.take(Instant::now(), true), Turn::Over);
    }

    #[tokio::test]
    async fn all_that_is_due_is_handed_out_and_nothing_before_its_time() {
        let (schedule, _, _stop) = schedule(End::Requests(50), Duration::ZERO, true);
        let sender = async {
            let mut count = 0;
            loop {
                schedule.later().await;
                let now = Instant::now();
                match schedule.take(now, true) {
                    Turn::Send { due } => assert!(due <= now),
                    Turn::Later => unreachable!("a permit was waited for"),
                    Turn::Over => return count,
                }
                count += 1;
            }
        };
        let ((), count) = tokio::join!(schedule.pace(Alarm::new().expect("a timer")), sender);
        assert_eq!(count, 50);
    }
}
