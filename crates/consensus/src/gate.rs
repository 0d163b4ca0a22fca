//! What lets proposals through, makes them wait, or refuses them: room in memory, and room on the disk.
//!
//! 1. When writes come faster than checkpoints write them, the gate closes before the engine's memory passes its bound:
//!    proposals wait, none is dropped. It is asked for each entry, so that scopes take turns also then (`turns.rs`).
//!    Where the disk is full no waiting helps: what needs room is then refused, and what does not goes on.
//! 2. What finds the disk full, a checkpoint or a snapshot's installation, is tried again until there is room; until then writes
//!    are refused. So are they where a majority of the members has none.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use storage::Backlog;
use tokio::sync::{Notify, watch};

use crate::log::LocalLog;

/// How long to wait before what found the disk full is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// Asks a log whether it has no room to grow. Called for every proposal: it must be quick.
pub type DiskFull = Arc<dyn Fn() -> bool + Send + Sync>;

/// When to make a checkpoint, and how much may wait for one.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy {
    /// After this many bytes of applied commands.
    pub applied_bytes: u64,
    /// After this time, when anything was applied.
    pub interval: Duration,
    /// The most that the engine may hold that no checkpoint has written, in bytes: past it, proposals wait.
    pub dirty_bytes_max: u64,
}

impl CheckpointPolicy {
    /// Whether the engine may take more. Until a checkpoint ends, the memory holds what it is writing, so that no more than half
    /// of the whole is for what comes meanwhile, or else the next checkpoint would leave nothing for what comes beside that. A
    /// quarter of it may be filled at any time, and the rest as far as the checkpoint has come: who writes faster than the disk
    /// takes it waits a little for each write, and not for seconds at the end.
    fn has_room(&self, backlog: &Backlog) -> bool {
        let Backlog { active_bytes, frozen_bytes, written_bytes, .. } = *backlog;
        let half_bytes = self.dirty_bytes_max / 2;
        if frozen_bytes == 0 {
            // What is closed has a checkpoint due, which opens it.
            return active_bytes < half_bytes.max(self.applied_bytes);
        }
        let left_bytes = self.dirty_bytes_max.saturating_sub(frozen_bytes).min(half_bytes);
        let paced_bytes = left_bytes - left_bytes / 4;
        let let_in_bytes = u128::from(paced_bytes) * u128::from(written_bytes) / u128::from(frozen_bytes);
        u128::from(active_bytes) < u128::from(left_bytes / 4) + let_in_bytes
    }

    /// Whether a checkpoint may rest when `new_bytes` have come since it began: as long as its work is further than they are.
    /// It is to be done when half of what makes the next one due has come. Finding each row's place is one half of the work,
    /// writing the other; once all is written, memory is given back, which has time until the next one.
    fn has_time(&self, new_bytes: u64, backlog: &Backlog) -> bool {
        let Backlog { frozen_bytes, staged_bytes, written_bytes, .. } = *backlog;
        if frozen_bytes == 0 {
            return new_bytes < self.applied_bytes;
        }
        let new = u128::from(new_bytes).saturating_mul(u128::from(frozen_bytes)).saturating_mul(4);
        new < u128::from(self.applied_bytes).saturating_mul(u128::from(staged_bytes) + u128::from(written_bytes))
    }
}

/// An error that can be a full disk below the store.
pub(crate) trait StoreError {
    /// The file that finds no room, when that is what it is.
    fn full_disk(&self) -> Option<&str>;
}

impl StoreError for storage::Error {
    fn full_disk(&self) -> Option<&str> {
        match self {
            Self::DiskFull { path } => Some(path),
            Self::Io { .. } | Self::Corrupt { .. } => None,
        }
    }
}

impl StoreError for state::snapshot::Error {
    fn full_disk(&self) -> Option<&str> {
        match self {
            Self::Storage(error) => error.full_disk(),
            Self::Source(_) | Self::Invalid { .. } => None,
        }
    }
}

/// What there is for who waits at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Room.
    Free,
    /// None, and no checkpoint can make any before the disk has some.
    DiskFull,
}

/// See the module.
pub(crate) struct Gate {
    applied_bytes: AtomicU64,
    policy: CheckpointPolicy,
    due: Notify,
    open: watch::Sender<bool>,
    store_disk_full: AtomicBool,
    log_disk_full: DiskFull,
    majority_lacks_room: AtomicBool,
}

impl Gate {
    pub(crate) fn new(policy: CheckpointPolicy, log_disk_full: DiskFull) -> Self {
        Self {
            applied_bytes: AtomicU64::new(0),
            policy,
            due: Notify::new(),
            open: watch::Sender::new(true),
            store_disk_full: AtomicBool::new(false),
            log_disk_full,
            majority_lacks_room: AtomicBool::new(false),
        }
    }

    /// When checkpoints are due, and how much may wait for one.
    pub(crate) fn policy(&self) -> &CheckpointPolicy {
        &self.policy
    }

    /// Whether the log or the store has no room to grow.
    pub(crate) fn disk_full(&self) -> bool {
        (self.log_disk_full)() || self.store_disk_full.load(Ordering::Relaxed)
    }

    /// Whether a proposal that needs room could not be committed, for want of room here or on a majority.
    pub(crate) fn lacks_room(&self) -> bool {
        self.disk_full() || self.majority_lacks_room.load(Ordering::Relaxed)
    }

    /// Notes whether no majority of the voters has room; true when that is news.
    pub(crate) fn note_majority(&self, lacks_room: bool) -> bool {
        self.majority_lacks_room.swap(lacks_room, Ordering::Relaxed) != lacks_room
    }

    /// Does what needs room below the store, however long the disk stays full; meanwhile writes are refused, and the log gives
    /// back what it can do without.
    ///
    /// # Errors
    /// Those of an attempt, but for a full disk.
    pub(crate) async fn outlast_full_disk<T, E: StoreError, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        log: &dyn LocalLog,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E> {
        loop {
            let outcome = attempt().await;
            let Some(path) = outcome.as_ref().err().and_then(E::full_disk) else {
                if self.store_disk_full.swap(false, Ordering::Relaxed) {
                    tracing::info!("disk has room again: writes go on");
                }
                return outcome;
            };
            if !self.store_disk_full.swap(true, Ordering::Relaxed) {
                tracing::error!(path, "disk full: writes are refused until there is room for {what}");
                // Who waits for room in memory is to know.
                self.open.send_modify(|_| ());
            }
            log.give_back();
            tokio::time::sleep(DISK_FULL_RETRY).await;
        }
    }

    /// Waits while the engine holds as much as it may, but not for a full disk.
    pub(crate) async fn room(&self) -> Room {
        let is_full = || self.store_disk_full.load(Ordering::Relaxed);
        let free = self.until(|open| open || is_full()).await;
        if free { Room::Free } else { Room::DiskFull }
    }

    /// Returns when the engine holds as much as it may.
    pub(crate) async fn closed(&self) {
        self.until(|open| !open).await;
    }

    /// Waits until it is as wanted, and answers whether the gate is open.
    async fn until(&self, is_wanted: impl Fn(bool) -> bool) -> bool {
        let open = *self.open.borrow();
        if is_wanted(open) {
            return open;
        }
        let mut changes = self.open.subscribe();
        // The sender lives in `self`: the channel cannot be closed.
        changes.wait_for(|open| is_wanted(*open)).await.map_or(open, |open| *open)
    }

    /// Notes that commands of this size were applied, and what the engine now holds.
    pub(crate) fn applied(&self, bytes: u64, backlog: &Backlog) {
        self.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.is_due(backlog) {
            self.due.notify_one();
        }
        self.update_room(backlog);
    }

    /// Returns when a checkpoint may be due.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    /// The size of the commands that no checkpoint holds yet.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    /// Notes that a checkpoint holds commands of this size.
    pub(crate) fn covered(&self, bytes: u64) {
        self.applied_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Removals weigh little in the log and much in the engine, overwrites the other way round: either counts.
    pub(crate) fn is_due(&self, backlog: &Backlog) -> bool {
        let dirty_bytes = backlog.active_bytes + backlog.frozen_bytes;
        self.applied_bytes.load(Ordering::Relaxed).max(dirty_bytes) >= self.policy.applied_bytes
    }

    /// Whether a checkpoint that holds commands of `covered` bytes has time for rests: not while proposals wait for its end, or are
    /// refused until it has made room.
    pub(crate) fn has_time(&self, covered: u64, backlog: &Backlog) -> bool {
        let new_bytes = self.applied_bytes().saturating_sub(covered).max(backlog.active_bytes);
        !self.disk_full() && self.policy.has_room(backlog) && self.policy.has_time(new_bytes, backlog)
    }

    /// Opens or closes, as there is room.
    pub(crate) fn update_room(&self, backlog: &Backlog) {
        let open = self.policy.has_room(backlog);
        self.open.send_if_modified(|current| std::mem::replace(current, open) != open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::asked::Asked;

    #[tokio::test(start_paused = true)]
    async fn what_finds_the_disk_full_asks_the_log_for_room_and_tries_again() {
        let policy = CheckpointPolicy { applied_bytes: 1, interval: Duration::MAX, dirty_bytes_max: 1 };
        let (gate, log) = (Gate::new(policy, Arc::new(|| false)), Asked::default());
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            let full = attempts < 3;
            async move { if full { Err(storage::Error::DiskFull { path: "store".into() }) } else { Ok("done") } }
        };
        let outcome = gate.outlast_full_disk("a checkpoint", &log, attempt).await;
        assert!(matches!(outcome, Ok("done")));
        assert_eq!((attempts, log.times()), (3, 2));
        assert!(!gate.disk_full());
    }

    /// The least of what is active for which there is no room.
    fn most(policy: &CheckpointPolicy, frozen_bytes: u64, written_bytes: u64) -> u64 {
        let has_room = |active_bytes: &u64| policy.has_room(&backlog(*active_bytes, frozen_bytes, 0, written_bytes));
        (0..2_000).find(|active_bytes| !has_room(active_bytes)).unwrap_or(u64::MAX)
    }

    #[test]
    fn a_quarter_of_the_room_is_there_at_once_and_the_rest_as_the_checkpoint_goes_on() {
        let policy = CheckpointPolicy { applied_bytes: 100, interval: Duration::MAX, dirty_bytes_max: 1_000 };
        assert_eq!(most(&policy, 0, 0), 500, "no checkpoint runs");
        assert_eq!([0, 100, 200].map(|written| most(&policy, 200, written)), [125, 312, 500]);
        assert_eq!([0, 800].map(|written| most(&policy, 800, written)), [50, 200]);
        assert_eq!([1_000, 1_500].map(|frozen| most(&policy, frozen, 700)), [0, 0]);
        let late = CheckpointPolicy { applied_bytes: 1_000, ..policy };
        assert_eq!(most(&late, 0, 0), 1_000, "a gate that closes before a checkpoint is due would not open");
        let unbounded = CheckpointPolicy { dirty_bytes_max: u64::MAX, ..policy };
        assert!(unbounded.has_room(&backlog(1 << 50, 1 << 50, 0, 0)));
    }

    #[test]
    fn a_checkpoint_rests_while_it_is_ahead_of_what_comes_anew() {
        let policy = CheckpointPolicy { applied_bytes: 100, interval: Duration::MAX, dirty_bytes_max: 1_000 };
        // The least that makes it hurry, beside a checkpoint of 60 bytes.
        let least = |staged: u64, written: u64| {
            (0..200).find(|new_bytes| !policy.has_time(*new_bytes, &backlog(0, 60, staged, written)))
        };
        assert_eq!(
            [(0, 0), (30, 0), (60, 0), (60, 30), (60, 60)].map(|(staged, written)| least(staged, written)),
            [Some(0), Some(13), Some(25), Some(38), Some(50)]
        );
        assert!(policy.has_time(99, &Backlog::default()) && !policy.has_time(100, &Backlog::default()));
        let never = CheckpointPolicy { applied_bytes: u64::MAX, ..policy };
        assert!(never.has_time(1 << 30, &backlog(0, 1 << 30, 1 << 20, 0)));
        assert!(!policy.has_time(u64::MAX, &backlog(0, u64::MAX, u64::MAX, u64::MAX)));
    }

    /// Commands count also where they leave nothing in the engine's memory, as overwrites of one key do: the log holds them.
    #[test]
    fn what_makes_it_hurry_is_what_was_applied_since_it_began_or_what_memory_holds() {
        let policy = CheckpointPolicy { applied_bytes: 100, interval: Duration::MAX, dirty_bytes_max: 1_000 };
        let gate = Gate::new(policy, Arc::new(|| false));
        gate.applied(130, &Backlog::default());
        let has_time = |covered: u64, active_bytes: u64| gate.has_time(covered, &backlog(active_bytes, 60, 60, 0));
        assert_eq!(
            [(130, 0), (106, 0), (105, 0), (130, 24), (130, 25)].map(|(covered, active)| has_time(covered, active)),
            [true, true, false, true, false]
        );
    }

    /// As where memory for little more than one checkpoint is configured.
    #[test]
    fn no_checkpoint_rests_while_proposals_wait_for_it_or_are_refused() {
        let policy = CheckpointPolicy { applied_bytes: 100, interval: Duration::MAX, dirty_bytes_max: 130 };
        let gate = Gate::new(policy, Arc::new(|| false));
        let waits = backlog(7, 100, 100, 0);
        assert!(policy.has_time(7, &waits) && !policy.has_room(&waits) && !gate.has_time(0, &waits));
        let open = backlog(6, 100, 100, 0);
        assert!(gate.has_time(0, &open));
        let full = Gate::new(policy, Arc::new(|| true));
        assert!(!full.has_time(0, &open), "the log waits for the room that it makes");
    }

    fn backlog(active_bytes: u64, frozen_bytes: u64, staged_bytes: u64, written_bytes: u64) -> Backlog {
        Backlog { active_bytes, frozen_bytes, staged_bytes, written_bytes }
    }

    /// However much faster than the disk they come, writes are not stopped for the whole of a checkpoint.
    #[test]
    fn checkpoints_settle_at_half_of_the_room() {
        let policy = CheckpointPolicy { applied_bytes: 250, interval: Duration::MAX, dirty_bytes_max: 1_000 };
        let mut frozen_bytes = most(&policy, 0, 0);
        for _ in 0..4 {
            assert!(most(&policy, frozen_bytes, 0) >= 100, "beside {frozen_bytes}");
            frozen_bytes = most(&policy, frozen_bytes, frozen_bytes);
            assert_eq!(frozen_bytes, 500);
        }
    }
}
