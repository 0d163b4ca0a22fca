//! The rests of a checkpoint.
//!
//! A checkpoint has as much to do as all writes since the last one: at full speed it takes a processor for a second and then
//! the disk for another, and the writes that come meanwhile wait for both. There is time until the next one is due. So it
//! works for half a millisecond and rests for twice as long, again and again; but not when it is late
//! ([`Gate::has_time`](crate::gate::Gate::has_time)), so that what a restart has to apply is no more than it would be under many
//! writes. Nor does the engine ask it to while something waits for its end, as a snapshot or the last checkpoint of a stop does.

use std::{sync::Arc, time::Duration};

use crate::env::{Env, Signal};

/// How long it works at a stretch: about as long as a write waits for the disk.
const WORK: Duration = Duration::from_micros(500);
/// How often the time that it worked it rests.
const RESTS: u32 = 2;
/// A rest is no longer, however long the work took: it may itself have waited, for a processor or for the disk.
const REST_MAX: Duration = Duration::from_millis(2);

/// Whoever works rests now and then.
pub(crate) struct Rests {
    env: Arc<dyn Env>,
    /// That nobody raises: whoever waits for it rests.
    nothing: Arc<dyn Signal>,
    working_since: Duration,
}

impl Rests {
    /// Work begins now.
    pub(crate) fn begin(env: Arc<dyn Env>) -> Self {
        Self { nothing: env.signal(), working_since: env.monotonic(), env }
    }

    /// Blocks for a while, when it is time for a rest and it `has_time` for one.
    pub(crate) fn rest(&mut self, has_time: impl FnOnce() -> bool) {
        let worked = self.env.monotonic().saturating_sub(self.working_since);
        if worked < WORK {
            return;
        }
        if has_time() {
            self.nothing.wait(Some((worked * RESTS).min(REST_MAX)));
        }
        self.working_since = self.env.monotonic();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::*;
    use crate::env::{Body, Join};

    /// A clock that goes on by waiting, and by hand.
    #[derive(Clone, Debug, Default)]
    struct Clock(Arc<AtomicU64>, Arc<Mutex<Vec<u64>>>);

    impl Clock {
        fn pass(&self, us: u64) {
            self.0.fetch_add(us, Ordering::Relaxed);
        }

        /// How long was waited since the last look, in microseconds.
        fn waits(&self) -> Vec<u64> {
            std::mem::take(&mut self.1.lock().unwrap())
        }
    }

    impl Signal for Clock {
        fn raise(&self) {
            unreachable!("nobody ends a rest");
        }

        fn wait(&self, timeout: Option<Duration>) -> bool {
            let us = u64::try_from(timeout.unwrap().as_micros()).unwrap();
            self.1.lock().unwrap().push(us);
            self.pass(us);
            false
        }
    }

    impl Env for Clock {
        fn spawn(&self, _: &str, _: Body) -> io::Result<Box<dyn Join>> {
            unreachable!("a rest starts nothing")
        }

        fn run_blocking(&self, _: Body) {
            unreachable!("a rest starts nothing")
        }

        fn run_in_background(&self, _: Body) {
            unreachable!("a rest starts nothing")
        }

        fn signal(&self) -> Arc<dyn Signal> {
            Arc::new(self.clone())
        }

        fn monotonic(&self) -> Duration {
            Duration::from_micros(self.0.load(Ordering::Relaxed))
        }

        fn unix_ms(&self) -> u64 {
            unreachable!("a rest has no date")
        }

        fn random_u64(&self) -> u64 {
            unreachable!("a rest is not random")
        }
    }

    #[test]
    fn who_worked_rests_for_longer_than_that_but_never_for_long() {
        let clock = Clock::default();
        let mut rests = Rests::begin(Arc::new(clock.clone()));
        let mut waits_behind = |works: &[u64]| {
            for us in works {
                clock.pass(*us);
                rests.rest(|| true);
            }
            clock.waits()
        };
        assert_eq!(waits_behind(&[100, 200, 199]), [0; 0]);
        assert_eq!(waits_behind(&[1]), [1_000]);
        assert_eq!(waits_behind(&[499]), [0; 0], "a rest is no work");
        assert_eq!(waits_behind(&[201, 600, 50_000]), [1_400, 1_200, 2_000]);
    }

    #[test]
    fn who_has_no_time_goes_on() {
        let clock = Clock::default();
        let mut rests = Rests::begin(Arc::new(clock.clone()));
        let mut waits = |has_time: bool| {
            clock.pass(600);
            rests.rest(|| has_time);
            clock.waits()
        };
        assert_eq!((waits(false), waits(true)), (vec![], vec![1_200]), "work that no rest followed does not add up");
    }
}
