//! Time and randomness, as traits: everything above gets them handed in, so that tests and the simulator can turn
//! the clock and repeat a run.

use consensus::env::Env as _;

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
#[derive(Debug, Default)]
pub(crate) struct System {
    env: consensus::env::System,
}

impl System {
    /// A clock whose monotonic time begins now.
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl Clock for System {
    fn unix_ms(&self) -> u64 {
        self.env.unix_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.env.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Entropy for System {
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system has random numbers on every platform that is supported");
    }
}
