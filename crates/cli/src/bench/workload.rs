//! What is asked: operations by their shares, on keys by their distribution, under one API key or many.

use clap::ValueEnum;
use rand::RngExt;
use rand::rngs::SmallRng;
use serde::Serialize;

use super::keys::Chooser;

/// Which store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Store {
    /// The durable Value Store
    Values,
    /// The in-memory Cache
    Cache,
}

/// One operation of the data API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Get,
    Set,
    Setnx,
    Cas,
    Delete,
    Bump,
    Iterate,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 7] =
        [Self::Get, Self::Set, Self::Setnx, Self::Cas, Self::Delete, Self::Bump, Self::Iterate];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Setnx => "setnx",
            Self::Cas => "cas",
            Self::Delete => "delete",
            Self::Bump => "bump",
            Self::Iterate => "iterate",
        }
    }

    /// Whether it finds nothing to do when the keys are not there.
    pub(crate) const fn needs_keys(self) -> bool {
        match self {
            Self::Get | Self::Cas | Self::Iterate => true,
            Self::Set | Self::Setnx | Self::Delete | Self::Bump => false,
        }
    }
}

/// An operation and its weight among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Share {
    pub(crate) operation: Operation,
    pub(crate) weight: u32,
}

/// Reads `OPERATION` or `OPERATION:WEIGHT`.
pub(crate) fn parse_share(text: &str) -> Result<Share, String> {
    let (name, weight) = text.split_once(':').unwrap_or((text, "1"));
    let operation = Operation::from_str(name, false).map_err(|_| {
        let known = Operation::ALL.map(Operation::name).join(", ");
        format!("the operations are {known}; several with weights as get:95,set:5")
    })?;
    match weight.parse() {
        Ok(weight @ 1..=1_000_000) => Ok(Share { operation, weight }),
        Ok(_) | Err(_) => Err("a weight is a whole number from 1 to 1,000,000, as in get:95,set:5".to_owned()),
    }
}

/// Chooses what to ask next. Nothing in it changes: the randomness is the caller's.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) shares: Vec<Share>,
    pub(crate) keys: Chooser,
    /// How many API keys there are to ask under.
    pub(crate) tenants: usize,
}

/// One request, before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) operation: Operation,
    pub(crate) key: u64,
    pub(crate) tenant: usize,
}

impl Workload {
    pub(crate) fn choose(&self, random: &mut SmallRng) -> Choice {
        let tenant = if self.tenants == 1 { 0 } else { random.random_range(0..self.tenants) };
        Choice { operation: self.operation(random), key: self.keys.choose(random), tenant }
    }

    fn operation(&self, random: &mut SmallRng) -> Operation {
        if let [only] = self.shares.as_slice() {
            return only.operation;
        }
        let mut left = random.random_range(0..self.shares.iter().map(|share| share.weight).sum());
        for share in &self.shares {
            if left < share.weight {
                return share.operation;
            }
            left -= share.weight;
        }
        unreachable!("the number is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;
    use crate::bench::keys::Distribution;

    #[test]
    fn shares_are_read() {
        assert_eq!(parse_share("cas").unwrap(), Share { operation: Operation::Cas, weight: 1 });
        assert_eq!(parse_share("get:95").unwrap(), Share { operation: Operation::Get, weight: 95 });
        for refused in ["", "put", "get:", "get:0", "get:-1", "get:1.5", "GET", "get:1000001"] {
            assert!(parse_share(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn operations_come_by_their_weights_under_every_tenant() {
        let shares = ["get:80", "set:15", "bump:5"].map(|share| parse_share(share).unwrap()).to_vec();
        let workload = Workload { shares, keys: Chooser::new(10, Distribution::Uniform), tenants: 3 };
        let mut random = SmallRng::seed_from_u64(1);
        let choices: Vec<_> = (0..100_000).map(|_| workload.choose(&mut random)).collect();
        let count = |of: fn(&Choice) -> bool| choices.iter().filter(|choice| of(choice)).count();
        assert!(count(|choice| choice.operation == Operation::Get).abs_diff(80_000) < 1_000);
        assert!(count(|choice| choice.operation == Operation::Set).abs_diff(15_000) < 1_000);
        assert!(count(|choice| choice.operation == Operation::Bump).abs_diff(5_000) < 1_000);
        assert!(count(|choice| choice.tenant == 2).abs_diff(33_333) < 1_000);
        assert!(choices.iter().all(|choice| choice.tenant < 3 && choice.key < 10));
    }

    #[test]
    fn a_seed_repeats_its_choices() {
        let shares = vec![parse_share("get").unwrap(), parse_share("set").unwrap()];
        let workload = Workload { shares, keys: Chooser::new(1_000, Distribution::Zipf { theta: 0.99 }), tenants: 2 };
        let choices = |seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            (0..100).map(|_| workload.choose(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(choices(3), choices(3));
        assert_ne!(choices(3), choices(4));
    }
}
