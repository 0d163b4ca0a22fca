//! What goes wrong, and when: drawn from the seed, so that each run has faults of its own.

use crate::dice::Dice;

const MS_NS: u64 = 1_000_000;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A machine loses its power, and what was not synced.
    Crash,
    /// The same, in the middle of an operation of the disk.
    CrashWhileWriting,
    /// A process ends; what it wrote stays.
    Kill,
    /// All machines lose their power at once.
    CrashAll,
    /// A process does not run for a while.
    Pause,
    /// A machine is cut off.
    Isolate,
    /// One direction of one link is cut.
    CutOneWay,
    /// The network is slow.
    SlowNetwork,
    /// The network loses messages, and delivers some twice.
    LossyNetwork,
    /// A disk stands still.
    StallDisk,
    /// A disk is full.
    FillDisk,
    /// An operation of a disk fails.
    FailDisk,
    /// A bit of what a crashed machine has stored is not what it was.
    RotDisk,
    /// A machine gets an empty disk.
    LoseDisk,
    /// A wall clock is set wrong.
    SetWallClock,
    /// A node is removed from the cluster; it comes back as another.
    RemoveNode,
    /// A node is restarted in order.
    Restart,
    /// The leadership is handed over.
    Transfer,
    /// A tenant's quotas are changed.
    ChangeLimits,
    /// A tenant is deleted.
    DeleteTenant,
}

/// Every fault, and how often it is drawn.
const FAULTS: &[(Fault, u64)] = &[
    (Fault::Crash, 10),
    (Fault::CrashWhileWriting, 10),
    (Fault::Kill, 8),
    (Fault::CrashAll, 2),
    (Fault::Pause, 10),
    (Fault::Isolate, 10),
    (Fault::CutOneWay, 8),
    (Fault::SlowNetwork, 5),
    (Fault::LossyNetwork, 5),
    (Fault::StallDisk, 6),
    (Fault::FillDisk, 4),
    (Fault::FailDisk, 3),
    (Fault::RotDisk, 3),
    (Fault::LoseDisk, 2),
    (Fault::SetWallClock, 3),
    (Fault::RemoveNode, 3),
    (Fault::Restart, 5),
    (Fault::Transfer, 5),
    (Fault::ChangeLimits, 6),
    (Fault::DeleteTenant, 2),
];

/// Faults to come.
pub(crate) struct Nemesis {
    pub(crate) dice: Dice,
    next_at: u64,
    until: u64,
    /// The kinds of this run: a few, so that each run is about something.
    kinds: Vec<(Fault, u64)>,
}

impl Nemesis {
    pub(crate) fn new(mut dice: Dice, from: u64, until: u64) -> Self {
        let mut kinds: Vec<(Fault, u64)> = FAULTS.iter().filter(|_| dice.chance(400)).copied().collect();
        if kinds.is_empty() {
            kinds = FAULTS.to_vec();
        }
        let next_at = from + dice.between(50, 800) * MS_NS;
        Self { dice, next_at, until, kinds }
    }

    /// The fault that begins now, if one does.
    pub(crate) fn next(&mut self, now: u64) -> Option<Fault> {
        if now < self.next_at || now >= self.until {
            return None;
        }
        self.next_at = now + self.dice.between(50, 1_500) * MS_NS;
        let mut at = self.dice.below(self.kinds.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in &self.kinds {
            if at < *weight {
                return Some(*fault);
            }
            at -= weight;
        }
        unreachable!("the weights' sum is above every draw")
    }
}
