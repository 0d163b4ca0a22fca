//! What a scope was asked for lately.

use std::collections::VecDeque;

/// How long a demand is remembered at least, in nanoseconds.
const WINDOW_NS: u64 = 1_000_000_000;
/// How far apart the marks are by which it is forgotten.
const STEP_NS: u64 = WINDOW_NS / 4;

/// Counts over the last second, and a quarter at most.
///
/// A window and no moving average: an average remembers a client that has gone for longer than it may take to give
/// its share to another, or forgets one with one request a second between two of them.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// When how many requests had been counted, oldest first. The first but one is older than the window, or there is none.
    marks: VecDeque<(u64, u64)>,
}

impl Demand {
    /// The requests per window, when `count` were counted until now since all of this began.
    pub(super) fn observe(&mut self, now_ns: u64, count: u64) -> u64 {
        if self.marks.back().is_none_or(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= STEP_NS) {
            self.marks.push_back((now_ns, if self.marks.is_empty() { 0 } else { count }));
        }
        while self.marks.get(1).is_some_and(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= WINDOW_NS) {
            self.marks.pop_front();
        }
        let (from_ns, before) = self.marks.front().copied().unwrap_or((now_ns, count));
        let window_ns = now_ns.saturating_sub(from_ns).max(WINDOW_NS);
        let requests = u128::from(count.saturating_sub(before)) * u128::from(WINDOW_NS);
        u64::try_from(requests.div_ceil(u128::from(window_ns))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_steady_demand_is_seen_as_what_it_is() {
        let mut demand = Demand::default();
        for n in 1..200 {
            let seen = demand.observe(n * 100 * MS, n * 7);
            assert!(n < 15 || (69..=71).contains(&seen), "{seen} after {n}");
        }
    }

    #[test]
    fn a_burst_counts_at_once_and_is_forgotten_soon() {
        let mut demand = Demand::default();
        for n in 0..20 {
            let seen = demand.observe((50 + n * 100) * MS, 25);
            match n {
                0..10 => assert_eq!(seen, 25),
                10..13 => assert!(seen <= 25),
                _ => assert_eq!(seen, 0, "after {n}"),
            }
        }
    }

    #[test]
    fn one_request_a_second_is_never_forgotten_between_two() {
        let mut demand = Demand::default();
        for n in 0..400 {
            let seen = demand.observe(n * 50 * MS, n / 20 + 1);
            assert!((1..=2).contains(&seen), "{seen}");
        }
    }
}
