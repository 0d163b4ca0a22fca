//! Time and randomness, as traits: everything above gets them handed in, so that tests and the simulator can turn
//! the clock and repeat a run.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub(crate) trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch, by the wall clock: for expiry times only.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds since some fixed moment of this process: never runs backwards.
    fn monotonic_ns(&self) -> u64;
}

/// Where randomness comes from.
pub(crate) trait Entropy: Send + Sync {
    /// Fills `out` with bytes that nobody can guess.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's clock and random numbers.
#[derive(Debug)]
pub(crate) struct System {
    start: Instant,
}

impl System {
    /// A clock whose monotonic time begins now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for System {
    fn unix_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Entropy for System {
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system has random numbers on every platform that is supported");
    }
}

impl consensus::env::Env for System {
    fn unix_ms(&self) -> u64 {
        Clock::unix_ms(self)
    }

    fn random_u64(&self) -> u64 {
        let mut random = [0; 8];
        self.fill(&mut random);
        u64::from_le_bytes(random)
    }
}
