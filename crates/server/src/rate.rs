//! The request rate of one data scope: a token bucket in one atomic word, shared by a key and its aliases.
//!
//! The bucket holds as many tokens as the limit says (burst = limit) and refills at the limit per second. It is kept
//! as the *theoretical arrival time* of the generic cell rate algorithm (ITU-T I.371): the moment at which the bucket
//! will be full again. Taking a token moves that moment by the time that one token takes to come back; a token is
//! there as long as the moment lies no further ahead than a whole bucket takes. So the word needs no timer, and a
//! changed limit is in force with the next request.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
};

const SECOND_NS: u64 = 1_000_000_000;

/// What a client whose limit is 0 is told to wait, in seconds: only a changed limit will help it.
const RETRY_AFTER_REFUSE_ALL_S: u64 = 60;

/// A token bucket. A new one is full.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// When the bucket is full again, in nanoseconds of the monotonic clock.
    full_at_ns: AtomicU64,
}

/// A refusal for want of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    /// The limit that was in force: requests per second, and the burst.
    pub(crate) per_second: u64,
    /// When to try again: whole seconds, at least 1.
    pub(crate) retry_after_s: u64,
}

impl Bucket {
    /// Takes one token at the moment `now_ns`, under a limit of `per_second`.
    ///
    /// # Errors
    /// When there is none; the bucket is then as it was.
    pub(crate) fn take(&self, now_ns: u64, per_second: u64) -> Result<(), Limited> {
        let Some(limit) = NonZeroU64::new(per_second) else {
            return Err(Limited { per_second, retry_after_s: RETRY_AFTER_REFUSE_ALL_S });
        };
        // Rounded up: the rate may fall short of the limit by a billionth of a second a request, never above it.
        let token_ns = SECOND_NS.div_ceil(limit.get());
        let bucket_ns = token_ns.saturating_mul(limit.get());
        let mut wait_ns = 0;
        let taken = self.full_at_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, |full_at_ns| {
            let next_ns = full_at_ns.max(now_ns).saturating_add(token_ns);
            wait_ns = next_ns.saturating_sub(now_ns).saturating_sub(bucket_ns);
            (wait_ns == 0).then_some(next_ns)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(Limited { per_second, retry_after_s: wait_ns.div_ceil(SECOND_NS).max(1) }),
        }
    }

    /// Whether no token is missing: such a bucket can be forgotten, since a new one would be no different.
    pub(crate) fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Acquire) <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of the requests made at the moments `at_ns` are granted under a constant limit.
    fn granted(bucket: &Bucket, at_ns: impl IntoIterator<Item = u64>, per_second: u64) -> u64 {
        at_ns.into_iter().filter(|now_ns| bucket.take(*now_ns, per_second).is_ok()).count() as u64
    }

    #[test]
    fn burst_is_the_limit_and_the_bucket_refills_at_the_limit() {
        let bucket = Bucket::default();
        assert_eq!(granted(&bucket, std::iter::repeat_n(0, 100), 25), 25);
        assert_eq!(granted(&bucket, std::iter::repeat_n(SECOND_NS / 5, 100), 25), 5);
        assert_eq!(granted(&bucket, std::iter::repeat_n(60 * SECOND_NS, 100), 25), 25);
    }

    #[test]
    fn zero_refuses_all() {
        let refused = Bucket::default().take(5, 0).expect_err("no token can be there");
        assert_eq!(refused, Limited { per_second: 0, retry_after_s: RETRY_AFTER_REFUSE_ALL_S });
    }

    #[test]
    fn a_changed_limit_is_in_force_with_the_next_request() {
        let bucket = Bucket::default();
        assert_eq!(granted(&bucket, std::iter::repeat_n(0, 9), 2), 2);
        assert!(bucket.take(0, 0).is_err());
        assert_eq!(granted(&bucket, std::iter::repeat_n(SECOND_NS, 900), 100), 100);
        assert_eq!(granted(&bucket, [2 * SECOND_NS, 2 * SECOND_NS], 1), 1);
    }

    proptest! {
        /// `docs/api.md` section 5: beyond the burst, at most 1.2 times the limit plus one request over any 10 s.
        #[test]
        fn never_more_than_the_limit(
            per_second in 1_u64..5_000,
            gaps_ns in prop::collection::vec(0_u64..2_000_000, 1..4_000),
        ) {
            let bucket = Bucket::default();
            let mut now_ns = 0;
            let moments: Vec<u64> = gaps_ns.iter().map(|gap_ns| { now_ns += gap_ns; now_ns }).collect();
            let granted = granted(&bucket, moments, per_second);
            let refilled = u128::from(now_ns) * u128::from(per_second) / u128::from(SECOND_NS);
            prop_assert!(u128::from(granted) <= u128::from(per_second) + refilled + 1);
        }

        /// `docs/api.md` section 5: under steady demand a client gets at least 0.9 of its limit.
        #[test]
        fn steady_demand_gets_the_limit(per_second in 1_u64..2_000, demand_percent in 100_u64..300) {
            let bucket = Bucket::default();
            let gap_ns = SECOND_NS * 100 / (per_second * demand_percent);
            let requests = 10 * SECOND_NS / gap_ns;
            let granted = granted(&bucket, (0..requests).map(|n| n * gap_ns), per_second);
            prop_assert!(granted * 10 >= per_second * 10 * 9, "{granted} of {}", per_second * 10);
        }

        /// Who waits as long as the answer says gets a token.
        #[test]
        fn retry_after_is_enough(per_second in 1_u64..2_000, taken in 0_u64..5_000, now_ns in 0..SECOND_NS) {
            let bucket = Bucket::default();
            granted(&bucket, std::iter::repeat_n(0, taken as usize), per_second);
            if let Err(limited) = bucket.take(now_ns, per_second) {
                prop_assert!(limited.retry_after_s >= 1);
                prop_assert!(bucket.take(now_ns + limited.retry_after_s * SECOND_NS, per_second).is_ok());
            }
        }
    }
}
