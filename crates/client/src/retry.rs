//! When a failed try may be followed by another. Pure, but for the jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use api::code::Code;

use crate::error::Error;

/// The bounds of trying again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The most tries of one call, or rounds of all nodes, the first included ([`Policy::pause`]).
    pub(crate) tries_max: u32,
    /// The pause after the first round; it doubles with each.
    pub(crate) backoff: Duration,
    /// The longest pause. When the server asks for a longer one, the error is handed out instead.
    pub(crate) wait_max: Duration,
}

impl Policy {
    /// How long to pause after try number `tried` (from 1) failed with `error`; `None` to give up.
    ///
    /// What is one node's trouble alone is taken to the next node without a pause until each has been tried once: that is
    /// a round, and there are `tries_max` of them. All else pauses after every try, and ends after `tries_max` tries or
    /// one for each node. A rate limit and a body that was sent too slowly are the caller's to mend: safe to retry, but
    /// not retried here.
    pub(crate) fn pause(&self, tried: u32, nodes: usize, error: &Error) -> Option<Duration> {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        let is_callers = error.refusal().is_some_and(|refusal| matches!(refusal.status, 408 | 429));
        let is_nodes = is_one_nodes_trouble(error);
        let tries_max = if is_nodes { self.tries_max.saturating_mul(nodes) } else { self.tries_max.max(nodes) };
        if !error.is_retry_safe() || is_callers || tried >= tries_max {
            return None;
        }
        if is_nodes && !tried.is_multiple_of(nodes) {
            return Some(Duration::ZERO);
        }
        let rounds = (tried.div_ceil(nodes) - 1).min(16);
        let backoff = jitter(self.backoff.saturating_mul(1 << rounds).min(self.wait_max));
        let asked = error.retry_after().unwrap_or_default();
        (asked <= self.wait_max).then(|| backoff.max(asked))
    }
}

/// Whether another node may well do at once what this one could not: it was not reached, or it knows no leader or holds
/// no lease, as one that is cut off from the others, or its disk is full. What it asks to wait is meant for its own sake.
fn is_one_nodes_trouble(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Refused(_) => matches!(error.code(), Some(Code::NoLeader | Code::NoQuorum | Code::DiskFull)),
        Error::Config(_)
        | Error::Interrupted { .. }
        | Error::OutcomeUnknown { .. }
        | Error::UnexpectedAnswer { .. } => false,
    }
}

/// A random time between half of `pause` and the whole, so that clients that failed together do not return together.
fn jitter(pause: Duration) -> Duration {
    // A hasher's seed is the randomness that std has.
    let sample = RandomState::new().hash_one(0_u8) >> 32;
    pause.mul_f64(0.5 + sample as f64 / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { tries_max: 4, backoff: Duration::from_millis(100), wait_max: Duration::from_millis(300) };

    fn unreachable() -> Error {
        Error::Unreachable { node: String::new(), reason: String::new() }
    }

    fn interrupted() -> Error {
        Error::Interrupted { node: String::new(), reason: String::new() }
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_end() {
        for (tried, longest_ms) in [(1, 100), (2, 200), (3, 300)] {
            let pause = POLICY.pause(tried, 1, &interrupted()).expect("tries are left");
            let longest = Duration::from_millis(longest_ms);
            assert!(longest / 2 <= pause && pause <= longest, "{tried}: {pause:?}");
        }
        assert_eq!(POLICY.pause(4, 1, &interrupted()), None);
    }

    #[test]
    fn every_node_is_tried_before_the_first_pause_and_rounds_end() {
        for tried in (1..20).filter(|tried| tried % 5 != 0) {
            assert_eq!(POLICY.pause(tried, 5, &unreachable()), Some(Duration::ZERO), "{tried}");
        }
        for (tried, longest_ms) in [(5, 100), (10, 200), (15, 300)] {
            let pause = POLICY.pause(tried, 5, &unreachable()).expect("rounds are left");
            assert!(pause >= Duration::from_millis(longest_ms / 2), "{tried}: {pause:?}");
        }
        assert_eq!(POLICY.pause(20, 5, &unreachable()), None);
        // What may take its full time to fail is not tried so often.
        assert_eq!(POLICY.pause(5, 5, &interrupted()), None);
    }

    #[test]
    fn what_may_have_been_done_is_not_tried_again() {
        let unknown = Error::OutcomeUnknown { node: String::new(), reason: String::new(), refusal: None };
        assert_eq!(POLICY.pause(1, 3, &unknown), None);
    }
}
