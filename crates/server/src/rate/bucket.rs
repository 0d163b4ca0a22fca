//! One scope's tokens on one node.
//!
//! The bucket is kept in *time of the limit*: a token is the time that one request takes at the limit, and with a share
//! of a third such time passes at a third of the clock's speed. Two words say it all: how that time passes (the slope,
//! which only a changed share replaces), and the moment up to which it is spent. What lies between that moment and now is
//! the bucket's content, as much of it as the bucket holds; taking a token moves the moment. So there is no timer, a
//! changed limit is in force with the next request, and a changed share makes no tokens.
//!
//! This is the generic cell rate algorithm (ITU-T I.371) with a clock of variable speed.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use state::ids::ScopeId;
use tokio::sync::mpsc::UnboundedSender;

use super::Share;

pub(super) const SECOND_NS: u64 = 1_000_000_000;
/// Where the time of a limit begins: far enough from 0 for whatever is subtracted.
const BEGIN_NS: u64 = 1 << 36;

/// What a client whose limit is 0 is told to wait, in seconds: only a changed limit will help it.
const RETRY_AFTER_REFUSE_ALL_S: u64 = 60;
/// The most that any other client is told to wait, in seconds: where there is demand, there will be a share.
const RETRY_AFTER_MAX_S: u64 = 3;

/// Nobody looks after the bucket: at its next request it sends word.
const ALONE: u8 = 0;
/// It is looked after, and has enough.
const CALM: u8 = 1;
/// It gets low, and has sent word.
const SHORT: u8 = 2;
/// It got low before the last report; if it does again, the next report is soon enough.
const WATCHED: u8 = 3;

/// A refusal for want of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    /// The limit that was in force: requests per second, and the burst.
    pub(crate) per_second: u64,
    /// When to try again: whole seconds, at least 1.
    pub(crate) retry_after_s: u64,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The scope has used its limit, or this node's share of it.
    Limited(Limited),
    /// This node has no share of the limit now: it has not heard from the leader for as long as one is good, or the leader
    /// knows too little yet to give it any.
    NoShare,
}

/// What all buckets of a node have in common.
#[derive(Debug)]
pub(super) struct Source {
    /// Until when their shares are good, in nanoseconds of the monotonic clock.
    pub(super) valid_until_ns: AtomicU64,
    /// Where to send word; nowhere on a node that is alone.
    pub(super) calls: Option<UnboundedSender<ScopeId>>,
}

/// How a limit's time passes.
#[derive(Clone, Copy, Debug)]
struct Slope {
    share: Share,
    from_ns: u64,
    from_limit_ns: u64,
}

impl Slope {
    /// The limit's time at the moment `now_ns`.
    fn at(&self, now_ns: u64) -> u64 {
        self.from_limit_ns.saturating_add(self.share.of(now_ns.saturating_sub(self.from_ns)))
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    scope: ScopeId,
    source: Arc<Source>,
    slope: ArcSwap<Slope>,
    /// In the limit's time.
    spent_until_ns: AtomicU64,
    /// The limit as the last request named it; 0 before the first.
    per_second: AtomicU64,
    asked: AtomicU64,
    standing: AtomicU8,
}

/// The limit's time of one token. Rounded up: the rate may fall short of the limit by a billionth of a second a request,
/// never above it.
fn token_ns(per_second: NonZeroU64) -> u64 {
    SECOND_NS.div_ceil(per_second.get())
}

/// What a bucket holds at most: its share of the burst and 0.9 of a token, or one token (`rate.rs` says why).
fn size_ns(share: Share, per_second: u64) -> u64 {
    match NonZeroU64::new(per_second) {
        None => share.of(SECOND_NS),
        Some(limit) => {
            let token_ns = token_ns(limit);
            let burst_ns = share.of(token_ns.saturating_mul(limit.get()));
            burst_ns.saturating_add(token_ns / 10 * 9).max(token_ns)
        }
    }
}

impl Bucket {
    /// A bucket with this share, full or empty.
    pub(super) fn new(scope: ScopeId, source: Arc<Source>, share: Share, is_full: bool) -> Self {
        let spent_until_ns = if is_full { 0 } else { BEGIN_NS };
        Self {
            scope,
            source,
            slope: ArcSwap::from_pointee(Slope { share, from_ns: 0, from_limit_ns: BEGIN_NS }),
            spent_until_ns: spent_until_ns.into(),
            per_second: AtomicU64::default(),
            asked: AtomicU64::default(),
            standing: AtomicU8::new(ALONE),
        }
    }

    /// A bucket for `scope` with the share and the content of this one.
    pub(super) fn copy_for(&self, scope: ScopeId) -> Self {
        let copy = Self::new(scope, self.source.clone(), Share::NONE, true);
        copy.slope.store(self.slope.load_full());
        copy.spent_until_ns.store(self.spent_until_ns.load(Ordering::Acquire), Ordering::Release);
        copy
    }

    /// Takes one token at the moment `now_ns`, under a limit of `per_second`.
    ///
    /// # Errors
    /// When there is none; the bucket is then as it was.
    pub(crate) fn take(&self, now_ns: u64, per_second: u64) -> Result<(), Refused> {
        let limited = |retry_after_s| Refused::Limited(Limited { per_second, retry_after_s });
        let Some(limit) = NonZeroU64::new(per_second) else { return Err(limited(RETRY_AFTER_REFUSE_ALL_S)) };
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.per_second.load(Ordering::Relaxed) != per_second {
            self.per_second.store(per_second, Ordering::Relaxed);
        }
        if now_ns >= self.source.valid_until_ns.load(Ordering::Acquire) {
            self.note(true);
            return Err(Refused::NoShare);
        }
        let token_ns = token_ns(limit);
        let mut is_low = false;
        let mut wait = (0, Share::NONE);
        let taken = self.spent_until_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent_until_ns| {
            // Looked at again with every try: a changed share moves the moment too.
            let slope = self.slope.load();
            let limit_now_ns = slope.at(now_ns);
            let size_ns = size_ns(slope.share, per_second);
            let next_ns = spent_until_ns.max(limit_now_ns.saturating_sub(size_ns)).saturating_add(token_ns);
            wait = (next_ns.saturating_sub(limit_now_ns), slope.share);
            is_low = limit_now_ns.saturating_sub(next_ns) < size_ns / 2;
            (next_ns <= limit_now_ns).then_some(next_ns)
        });
        self.note(is_low);
        match taken {
            Ok(_) => Ok(()),
            // A leader that has just begun shares nothing out yet: that is no word about the scope.
            Err(_) if wait.1 == Share::NONE => Err(Refused::NoShare),
            Err(_) => Err(limited(retry_after_s(wait.0, wait.1))),
        }
    }

    /// Sends word where nobody knows yet that the bucket is in use, or that it gets low.
    fn note(&self, is_low: bool) {
        let Some(calls) = &self.source.calls else { return };
        let standing = self.standing.load(Ordering::Acquire);
        let (next, sends) = match (standing, is_low) {
            (ALONE, false) => (CALM, true),
            (ALONE | CALM, true) => (SHORT, true),
            (WATCHED, true) => (SHORT, false),
            _ => return,
        };
        let changed = self.standing.compare_exchange(standing, next, Ordering::AcqRel, Ordering::Acquire);
        if changed.is_ok() && sends {
            // Nobody listens any more at the node's end.
            let _ = calls.send(self.scope);
        }
    }

    /// Whether the bucket got low since the last report, which this one is.
    pub(super) fn report_short(&self) -> bool {
        let next = |standing| match standing {
            SHORT => Some(WATCHED),
            WATCHED => Some(CALM),
            _ => None,
        };
        self.standing.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) == Ok(SHORT)
    }

    /// Whether the bucket gets low now.
    pub(super) fn is_short(&self) -> bool {
        self.standing.load(Ordering::Acquire) == SHORT
    }

    /// Looks after the bucket no longer: its next request sends word again.
    pub(super) fn leave_alone(&self) {
        self.asked.store(0, Ordering::Relaxed);
        self.standing.store(ALONE, Ordering::Release);
    }

    /// How many requests there were since nobody looked after it, granted or not, and under what limit the last.
    pub(super) fn asked(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.per_second.load(Ordering::Relaxed))
    }

    /// Changes the share, and adds `gift_ns`. Answers what the bucket held and holds no longer. Both in nanoseconds of
    /// the limit's time. One caller at a time.
    pub(super) fn set_share(&self, now_ns: u64, share: Share, gift_ns: u64) -> u64 {
        let old = self.slope.load_full();
        let limit_now_ns = old.at(now_ns);
        let per_second = self.per_second.load(Ordering::Relaxed);
        // What had no place before must not come to light in a larger bucket.
        self.spent_until_ns.fetch_max(limit_now_ns.saturating_sub(size_ns(old.share, per_second)), Ordering::AcqRel);
        self.slope.store(Arc::new(Slope { share, from_ns: now_ns, from_limit_ns: limit_now_ns }));
        self.spent_until_ns.fetch_sub(gift_ns.min(SECOND_NS), Ordering::AcqRel);
        let floor_ns = limit_now_ns.saturating_sub(size_ns(share, per_second));
        let before_ns = self.spent_until_ns.fetch_max(floor_ns, Ordering::AcqRel);
        floor_ns.saturating_sub(before_ns)
    }

    /// Whether no token is missing: such a bucket can be forgotten, since a new one would be no different.
    pub(super) fn is_full(&self, now_ns: u64) -> bool {
        let slope = self.slope.load();
        let size_ns = size_ns(slope.share, self.per_second.load(Ordering::Relaxed));
        self.spent_until_ns.load(Ordering::Acquire) <= slope.at(now_ns).saturating_sub(size_ns)
    }
}

fn retry_after_s(limit_ns: u64, share: Share) -> u64 {
    let wait_ns = (u128::from(limit_ns) << 30).div_ceil(u128::from(share.0.max(1)));
    u64::try_from(wait_ns.div_ceil(u128::from(SECOND_NS))).unwrap_or(u64::MAX).clamp(1, RETRY_AFTER_MAX_S)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Bucket {
        with_share(Share::WHOLE, true)
    }

    fn with_share(share: Share, is_full: bool) -> Bucket {
        let source = Source { valid_until_ns: u64::MAX.into(), calls: None };
        Bucket::new(ScopeId::ROOT, Arc::new(source), share, is_full)
    }

    /// How many of the requests made at the moments `at_ns` are granted under a constant limit.
    fn granted(bucket: &Bucket, at_ns: impl IntoIterator<Item = u64>, per_second: u64) -> u64 {
        at_ns.into_iter().filter(|now_ns| bucket.take(*now_ns, per_second).is_ok()).count() as u64
    }

    fn at_once(bucket: &Bucket, now_ns: u64, per_second: u64) -> u64 {
        granted(bucket, std::iter::repeat_n(now_ns, 1_000), per_second)
    }

    #[test]
    fn burst_is_the_limit_and_the_bucket_refills_at_the_limit() {
        let bucket = full();
        assert_eq!(at_once(&bucket, 0, 25), 25);
        assert_eq!(at_once(&bucket, SECOND_NS / 5, 25), 5);
        assert_eq!(at_once(&bucket, 60 * SECOND_NS, 25), 25);
    }

    #[test]
    fn zero_refuses_all() {
        let refused = full().take(5, 0).expect_err("no token can be there");
        assert_eq!(refused, Refused::Limited(Limited { per_second: 0, retry_after_s: RETRY_AFTER_REFUSE_ALL_S }));
    }

    #[test]
    fn a_changed_limit_is_in_force_with_the_next_request() {
        let bucket = full();
        assert_eq!(at_once(&bucket, 0, 2), 2);
        assert!(bucket.take(0, 0).is_err());
        assert_eq!(at_once(&bucket, SECOND_NS, 100), 100);
        assert_eq!(granted(&bucket, [2 * SECOND_NS, 2 * SECOND_NS], 1), 1);
    }

    #[test]
    fn a_share_is_a_part_of_the_rate_and_of_the_burst() {
        let bucket = with_share(Share::ratio(2, 5), true);
        assert_eq!(at_once(&bucket, 0, 100), 40);
        assert_eq!(at_once(&bucket, SECOND_NS / 2, 100), 20);
        let none = with_share(Share::NONE, true);
        assert_eq!(at_once(&none, 0, 100), 1, "one request, and no more");
        assert_eq!(at_once(&none, 60 * SECOND_NS, 100), 0);
        assert_eq!(none.take(60 * SECOND_NS, 100), Err(Refused::NoShare), "that is no word about the scope");
    }

    #[test]
    fn a_changed_share_moves_tokens_and_makes_none() {
        let (half, whole) = (Share::even(2), Share::WHOLE);
        let bucket = with_share(half, true);
        assert_eq!(granted(&bucket, [0; 10], 100), 10);
        assert_eq!(bucket.set_share(0, whole, 0), 0);
        assert_eq!(at_once(&bucket, 0, 100), 40, "what it had");
        assert_eq!(bucket.set_share(0, whole, SECOND_NS / 5), 0);
        assert_eq!(at_once(&bucket, 0, 100), 20, "what it was given");
        let returned_ns = bucket.set_share(SECOND_NS, Share::ratio(1, 10), 0);
        assert!(returned_ns.abs_diff(SECOND_NS / 10 * 9) < SECOND_NS / 100, "{returned_ns}");
        bucket.set_share(SECOND_NS, whole, 0);
        assert_eq!(at_once(&bucket, SECOND_NS, 100), 10, "what it handed in is gone");
    }

    #[test]
    fn nothing_is_granted_when_the_share_has_run_out() {
        let bucket = full();
        bucket.source.valid_until_ns.store(SECOND_NS, Ordering::Release);
        assert!(bucket.take(SECOND_NS - 1, 9).is_ok());
        assert_eq!(bucket.take(SECOND_NS, 9), Err(Refused::NoShare));
    }

    proptest! {
        /// No more than the burst, the rate, and a part of a request.
        #[test]
        fn never_more_than_the_limit(
            per_second in 1_u64..5_000,
            gaps_ns in prop::collection::vec(0_u64..2_000_000, 1..4_000),
        ) {
            let bucket = full();
            let mut now_ns = 0;
            let moments: Vec<u64> = gaps_ns.iter().map(|gap_ns| { now_ns += gap_ns; now_ns }).collect();
            let granted = granted(&bucket, moments, per_second);
            let refilled = u128::from(now_ns) * u128::from(per_second) / u128::from(SECOND_NS);
            prop_assert!(u128::from(granted) <= u128::from(per_second) + refilled + 1);
        }

        /// `docs/api.md` section 5: under steady demand a client gets at least 0.9 of its limit, however small that is,
        /// and whether it asks for a hair more than that or for much more. The burst is not counted.
        #[test]
        fn steady_demand_gets_the_limit(per_second in prop_oneof![1_u64..8, 1_u64..2_000], demand_permille in 1_000_u64..3_000) {
            let bucket = full();
            let gap_ns = SECOND_NS * 1_000 / (per_second * demand_permille);
            at_once(&bucket, 0, per_second);
            let seconds = 100;
            let requests = seconds * SECOND_NS / gap_ns;
            let granted = granted(&bucket, (1..=requests).map(|n| n * gap_ns), per_second);
            prop_assert!(granted * 10 >= per_second * seconds * 9, "{granted} of {}", per_second * seconds);
        }

        /// Who waits as long as the answer says gets a token.
        #[test]
        fn retry_after_is_enough(per_second in 1_u64..2_000, taken in 0_u64..5_000, now_ns in 0..SECOND_NS, nodes in 1_usize..4) {
            let bucket = with_share(Share::even(nodes), true);
            granted(&bucket, std::iter::repeat_n(0, taken as usize), per_second);
            if let Err(Refused::Limited(limited)) = bucket.take(now_ns, per_second) {
                prop_assert!(limited.retry_after_s >= 1);
                prop_assert!(bucket.take(now_ns + limited.retry_after_s * SECOND_NS, per_second).is_ok());
            }
        }
    }
}
