//! Which faults are made, in which order: drawn from the seed alone.

use std::{collections::BTreeSet, fmt, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Processes end as by a power cut: one, two at a time, all.
    Kill,
    /// Processes stop and go on.
    Pause,
    /// Messages between nodes are swallowed, one way or both.
    Partition,
    /// One node's disk is full.
    DiskFull,
    /// Wall clocks jump.
    Clock,
    /// Nodes are stopped in order and started again.
    Restart,
    /// The leadership is handed over.
    Transfer,
    /// A node comes back with an empty disk.
    Wipe,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Pause,
        Self::Partition,
        Self::DiskFull,
        Self::Clock,
        Self::Restart,
        Self::Transfer,
        Self::Wipe,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Which node. Who that is shows when the fault is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It leads the group of the Value Store.
    Leader,
    /// It leads the group of the Cache.
    CacheLeader,
    /// It leads neither, or at least not the Value Store.
    Follower,
}

const ROLES: [Role; 3] = [Role::Leader, Role::CacheLeader, Role::Follower];

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    KillOne(Role),
    /// This one and another.
    KillTwo(Role),
    KillAll,
    PauseOne(Role),
    /// This one and another.
    PauseTwo(Role),
    PauseAll,
    /// Nothing passes between this one and the others.
    Isolate(Role),
    /// The others do not hear it.
    Mute(Role),
    /// It does not hear the others.
    Deafen(Role),
    /// Nothing passes between this one and one of the others.
    CutLink(Role),
    /// Nothing passes between any two.
    Split,
    FillDisk,
    /// A node's clock jumps by so many seconds.
    MoveClock(Role, i64),
    /// All clocks jump by so many seconds.
    MoveClocks(i64),
    RestartOne(Role),
    RestartAllInTurn,
    /// So many times.
    Transfer(u64),
    Wipe(Role),
}

impl Action {
    pub(crate) fn kind(self) -> FaultKind {
        match self {
            Self::KillOne(_) | Self::KillTwo(_) | Self::KillAll => FaultKind::Kill,
            Self::PauseOne(_) | Self::PauseTwo(_) | Self::PauseAll => FaultKind::Pause,
            Self::Isolate(_) | Self::Mute(_) | Self::Deafen(_) | Self::CutLink(_) | Self::Split => FaultKind::Partition,
            Self::FillDisk => FaultKind::DiskFull,
            Self::MoveClock(..) | Self::MoveClocks(_) => FaultKind::Clock,
            Self::RestartOne(_) | Self::RestartAllInTurn => FaultKind::Restart,
            Self::Transfer(_) => FaultKind::Transfer,
            Self::Wipe(_) => FaultKind::Wipe,
        }
    }
}

/// One fault, the calm before it, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) calm: Duration,
    pub(crate) action: Action,
    /// Another fault in the midst of it.
    pub(crate) also: Option<Action>,
    pub(crate) hold: Duration,
}

/// Steps without an end: at first every kind once, then any.
pub(crate) struct Schedule {
    random: Random,
    kinds: Vec<FaultKind>,
    first: Vec<FaultKind>,
}

impl Schedule {
    /// None without any kind.
    pub(crate) fn new(seed: u64, kinds: &BTreeSet<FaultKind>) -> Option<Self> {
        let mut random = Random::new(seed, 0xFA17);
        let kinds: Vec<FaultKind> = kinds.iter().copied().collect();
        let mut left = kinds.clone();
        let mut first = Vec::new();
        while !left.is_empty() {
            first.push(left.swap_remove(usize::try_from(random.below(left.len() as u64)).unwrap_or(0)));
        }
        (!kinds.is_empty()).then_some(Self { random, kinds, first })
    }

    pub(crate) fn next(&mut self) -> Step {
        let is_first = !self.first.is_empty();
        let kind = self.first.pop().unwrap_or_else(|| self.random.pick(&self.kinds));
        let action = self.action(kind);
        let also = (!is_first && self.random.below(3) == 0).then(|| self.also()).flatten();
        let calm = Duration::from_millis(200 + self.random.below(1_800));
        // Shorter than an election, longer than one, longer than a lease, longer than the Cache waits before it is given up.
        let mut hold = self.random.pick(&[300, 1_000, 2_000, 4_000, 7_000]) + self.random.below(500);
        if kind == FaultKind::DiskFull {
            // The log goes on for a while in what it has made ready.
            hold += 2_000;
        }
        Step { calm, action, also, hold: Duration::from_millis(hold) }
    }

    /// A fault that can be made in the midst of any other.
    fn also(&mut self) -> Option<Action> {
        let role = self.random.pick(&ROLES);
        let action = match self.random.below(4) {
            0 => Action::KillOne(role),
            1 => Action::PauseOne(role),
            2 => Action::Isolate(role),
            _ => Action::Transfer(1),
        };
        self.kinds.contains(&action.kind()).then_some(action)
    }

    fn action(&mut self, kind: FaultKind) -> Action {
        let role = self.random.pick(&ROLES);
        let which = self.random.below(10);
        let seconds = self.random.pick(&[-86_400, -3_600, -5, 5, 3_600, 86_400 * 400]);
        match (kind, which) {
            (FaultKind::Kill, 0..=5) => Action::KillOne(role),
            (FaultKind::Kill, 6..=7) => Action::KillTwo(role),
            (FaultKind::Kill, _) => Action::KillAll,
            (FaultKind::Pause, 0..=6) => Action::PauseOne(role),
            (FaultKind::Pause, 7..=8) => Action::PauseTwo(role),
            (FaultKind::Pause, _) => Action::PauseAll,
            (FaultKind::Partition, 0..=3) => Action::Isolate(role),
            (FaultKind::Partition, 4..=5) => Action::Mute(role),
            (FaultKind::Partition, 6) => Action::Deafen(role),
            (FaultKind::Partition, 7..=8) => Action::CutLink(role),
            (FaultKind::Partition, _) => Action::Split,
            (FaultKind::DiskFull, _) => Action::FillDisk,
            (FaultKind::Clock, 0..=6) => Action::MoveClock(role, seconds),
            (FaultKind::Clock, _) => Action::MoveClocks(seconds),
            (FaultKind::Restart, 0..=7) => Action::RestartOne(role),
            (FaultKind::Restart, _) => Action::RestartAllInTurn,
            (FaultKind::Transfer, _) => Action::Transfer(1 + which % 3),
            (FaultKind::Wipe, _) => Action::Wipe(role),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_schedule_and_every_kind_comes_first() {
        let kinds = BTreeSet::from(FaultKind::ALL);
        let steps = |seed| {
            let mut schedule = Schedule::new(seed, &kinds).unwrap();
            (0..200).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        let first: BTreeSet<FaultKind> = steps(7)[..8].iter().map(|step| step.action.kind()).collect();
        assert_eq!(first, kinds);
        let few = BTreeSet::from([FaultKind::Kill]);
        let mut schedule = Schedule::new(1, &few).unwrap();
        assert!((0..50).all(|_| schedule.next().action.kind() == FaultKind::Kill));
        assert!(Schedule::new(1, &BTreeSet::new()).is_none());
    }
}
