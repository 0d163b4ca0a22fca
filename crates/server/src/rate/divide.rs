//! How a scope's limit is divided by demand.

use super::Share;

/// What the nodes that ask for nothing may have on top of the limit, all together: 0.06.
const RESERVES: Share = Share(Share::WHOLE.0 / 50 * 3);
/// The most that one of them has: 0.03.
const RESERVE_MAX: Share = Share(Share::WHOLE.0 / 100 * 3);

/// What a node has that asks for nothing, one of `nodes`.
pub(super) fn reserve(nodes: usize) -> Share {
    match u32::try_from(nodes.saturating_sub(1)).unwrap_or(u32::MAX) {
        0 => Share::NONE,
        others => Share(RESERVES.0 / others).min(RESERVE_MAX),
    }
}

/// The most that the shares of one scope may add up to, on `nodes` nodes.
pub(super) fn sum_max(nodes: usize) -> Share {
    let others = u32::try_from(nodes.saturating_sub(1)).unwrap_or(u32::MAX);
    Share(Share::WHOLE.0 + reserve(nodes).0.saturating_mul(others))
}

/// Each node's share for these demands, parts of the limit, at most all of it each. They add up to [`sum_max`] at most.
///
/// Where the demands add up to the limit or more, it is divided max-min fairly: no node has more than it asks for, and none
/// that asks for more has less than another. Where they add up to less, in proportion.
pub(super) fn divide(demands: &[Share]) -> Vec<Share> {
    let asked: u64 = demands.iter().map(|demand| u64::from(demand.0)).sum();
    let reserve = reserve(demands.len());
    let part = |demand: &Share| {
        if asked == 0 {
            Share::even(demands.len())
        } else if asked < u64::from(Share::WHOLE.0) {
            Share::ratio(u64::from(demand.0), asked)
        } else {
            (*demand).min(level(demands))
        }
    };
    demands.iter().map(|demand| part(demand).max(reserve)).collect()
}

/// What each node has that asks for more: all that the others leave, evenly.
fn level(demands: &[Share]) -> Share {
    let mut sorted = demands.to_vec();
    sorted.sort_unstable();
    let mut left = Share::WHOLE;
    for (done, demand) in sorted.iter().enumerate() {
        let even = Share(left.0 / u32::try_from(sorted.len() - done).unwrap_or(u32::MAX));
        if *demand >= even {
            return even;
        }
        left = left.minus(*demand);
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(shares: &[u32]) -> Vec<Share> {
        shares.iter().map(|share| Share::ratio(u64::from(*share), 100)).collect()
    }

    #[test]
    fn by_demand() {
        for (demands, expected) in [
            (vec![100], vec![100]),
            (vec![0], vec![100]),
            (vec![0, 0], vec![50, 50]),
            (vec![100, 0, 0], vec![100, 3, 3]),
            (vec![20, 0, 0], vec![100, 3, 3]),
            (vec![30, 10, 0], vec![75, 25, 3]),
            (vec![100, 100, 0, 0], vec![50, 50, 2, 2]),
            (vec![100, 20, 0], vec![80, 20, 3]),
            (vec![100, 100, 10], vec![45, 45, 10]),
            (vec![100, 0, 0, 0, 0, 0, 0], vec![100, 1, 1, 1, 1, 1, 1]),
        ] {
            let divided = divide(&percent(&demands));
            for (share, expected) in divided.iter().zip(percent(&expected)) {
                assert!(share.0.abs_diff(expected.0) < 100, "{demands:?}: {divided:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(demands in prop::collection::vec(0..=Share::WHOLE.0, 1..9)) {
            let demands: Vec<Share> = demands.into_iter().map(Share).collect();
            let divided = divide(&demands);
            let sum: Share = divided.iter().copied().sum();
            prop_assert!(sum <= sum_max(demands.len()) && sum_max(demands.len()).0 <= Share::WHOLE.0 / 100 * 107);
            // All of the limit is given out.
            prop_assert!(sum.0 + 100 >= Share::WHOLE.0);
        }
    }
}
