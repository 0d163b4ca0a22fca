//! When a failed try may be followed by another. Pure, but for the jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::Error;

/// The bounds of trying again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The most tries of one call, the first included; every configured node gets one in any case.
    pub(crate) tries_max: u32,
    /// The pause after the first round; it doubles with each.
    pub(crate) backoff: Duration,
    /// The longest pause. When the server asks for a longer one, the error is handed out instead.
    pub(crate) wait_max: Duration,
}

impl Policy {
    /// How long to pause after try number `tried` (from 1) failed with `error`; `None` to give up.
    ///
    /// Nodes that cannot be reached are skipped without a pause until each has been tried once. A rate limit is the
    /// caller's to keep: it is safe to retry, but not retried here.
    pub(crate) fn pause(&self, tried: u32, nodes: usize, error: &Error) -> Option<Duration> {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        let is_rate_limit = error.refusal().is_some_and(|refusal| refusal.status == 429);
        if !error.is_retry_safe() || is_rate_limit || tried >= self.tries_max.max(nodes) {
            return None;
        }
        if matches!(error, Error::Unreachable { .. }) && !tried.is_multiple_of(nodes) {
            return Some(Duration::ZERO);
        }
        let rounds = (tried.div_ceil(nodes) - 1).min(16);
        let backoff = jitter(self.backoff.saturating_mul(1 << rounds).min(self.wait_max));
        let asked = error.retry_after().unwrap_or_default();
        (asked <= self.wait_max).then(|| backoff.max(asked))
    }
}

/// A random time between half of `pause` and the whole, so that clients that failed together do not return together.
fn jitter(pause: Duration) -> Duration {
    // A hasher's seed is the randomness that std has.
    let sample = RandomState::new().hash_one(0_u8) >> 32;
    pause.mul_f64(0.5 + sample as f64 / f64::from(u32::MAX) / 2.0)
}
