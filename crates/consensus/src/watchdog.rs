//! The watch over the disk below a log.
//!
//! openraft sends entries to the others before the leader's own log has them, and commits what a majority has. So a
//! leader whose disk stands still goes on by the disks of the others, with heartbeats and all: one failure away from a
//! halt, its memory filling with what it cannot write. A member with such a disk should not lead.
//!
//! 1. A write or sync that is under way for [`STALL_MAX`] is a stall.
//! 2. A leader then hands over to the voter whose log has come furthest, once that has grown since: a proof that the
//!    other's disk is alive. From the moment of the transfer the leader takes no proposals, answers no reads and sends no
//!    heartbeats, and every voter is told to honour its lease no more; should the one that was chosen not take over,
//!    another is elected. Where no other log grows, nobody is better off or nothing is written, and it leaves all as it is.
//! 3. While it lasts the member does not campaign. Nor could it win: openraft waits for the disk before it asks for votes.
//! 4. When the disk is back the member takes part again.

use std::{sync::Arc, time::Duration};

use openraft::{Instant as _, Raft, RaftMetrics, async_runtime::watch::WatchReceiver as _};
use storage::Engine;
use tokio::time::Instant;

use crate::{
    hold::Hold,
    log::LocalLog,
    state_machine::Machine,
    types::{MemberId, TypeConfig},
};

/// A write under way for so long is a stall. Disks of busy machines and clouds stand still for some tenths of a second,
/// and a whole segment takes a slow disk as long; and handing over costs clients about as much as waiting this out.
const STALL_MAX: Duration = Duration::from_secs(1);
/// How often the watchdog looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long after a transfer that had no success the next is tried.
const TRANSFER_EVERY: Duration = Duration::from_secs(1);
/// How long a voter may not have answered to count as there.
const CONTACT_MAX: Duration = Duration::from_secs(1);

/// Watches one member's disk, and says when the member may campaign.
pub(crate) struct Watchdog<E: Engine> {
    raft: Raft<TypeConfig, Machine<E>>,
    log: Arc<dyn LocalLog>,
    hold: Hold,
    group: &'static str,
    campaigns: bool,
    stall: Option<Stall>,
}

/// A stall under way.
struct Stall {
    /// How far the others' logs had come when it was seen.
    reached: Option<u64>,
    /// When leadership may next be handed over.
    transfer_after: Instant,
}

impl<E: Engine> Watchdog<E> {
    /// Lets the member campaign at once where nothing speaks against it; whatever changes about that later, only
    /// [`Watchdog::run`] sees.
    pub(crate) fn new(
        raft: Raft<TypeConfig, Machine<E>>,
        log: Arc<dyn LocalLog>,
        hold: Hold,
        group: &'static str,
    ) -> Self {
        let campaigns = hold.until().is_none();
        raft.runtime_config().elect(campaigns);
        Self { raft, log, hold, group, campaigns, stall: None }
    }

    /// Runs until the task is aborted.
    pub(crate) async fn run(mut self) {
        loop {
            self.look();
            self.allow_campaigns();
            self.hand_over().await;
            let next = Instant::now() + LOOK_EVERY;
            let held = self.hold.until().filter(|until| *until > Instant::now());
            tokio::time::sleep_until(held.map_or(next, |until| next.min(until))).await;
        }
    }

    fn look(&mut self) {
        let (group, stalled_for) = (self.group, self.log.stalled_for());
        if stalled_for < STALL_MAX {
            if self.stall.take().is_some() {
                tracing::info!(group, "the log's disk works again");
            }
        } else if self.stall.is_none() {
            let stalled_ms = u64::try_from(stalled_for.as_millis()).unwrap_or(u64::MAX);
            tracing::error!(group, stalled_ms, "the log's disk has not finished a write: this member should not lead");
            let reached = furthest(&self.raft.metrics().borrow_watched()).and_then(|(_, reached)| reached);
            self.stall = Some(Stall { reached, transfer_after: Instant::now() });
        }
    }

    fn allow_campaigns(&mut self) {
        let campaigns = self.stall.is_none() && self.hold.until().is_none_or(|until| Instant::now() >= until);
        if std::mem::replace(&mut self.campaigns, campaigns) != campaigns {
            self.raft.runtime_config().elect(campaigns);
        }
    }

    async fn hand_over(&mut self) {
        let Some(stall) = self.stall.as_mut().filter(|stall| stall.transfer_after <= Instant::now()) else { return };
        let furthest = furthest(&self.raft.metrics().borrow_watched());
        let Some((successor, _)) = furthest.filter(|(_, reached)| *reached > stall.reached) else { return };
        stall.transfer_after = Instant::now() + TRANSFER_EVERY;
        tracing::warn!(group = self.group, to = %successor, "handing the leadership over, for the disk's sake");
        // openraft's core may itself be waiting for the disk; then it leads no more, and will not need this.
        drop(tokio::time::timeout(LOOK_EVERY, self.raft.trigger().transfer_leader(successor)).await);
    }
}

/// When this member leads: of the other voters that are there the one whose log has come furthest, and how far.
fn furthest(metrics: &RaftMetrics<TypeConfig>) -> Option<(MemberId, Option<u64>)> {
    let (matched, heard) = (metrics.replication.as_ref()?, metrics.heartbeat.as_ref()?);
    let is_there = |id: &MemberId| heard.get(id).and_then(Option::as_ref).is_some_and(|at| at.elapsed() < CONTACT_MAX);
    let reached = |id: MemberId| (id, matched.get(&id).and_then(Option::as_ref).map(|last| last.index));
    let voters = metrics.membership_config.membership().voter_ids();
    let others = voters.filter(|id| *id != metrics.id && is_there(id)).map(reached);
    others.max_by_key(|(_, reached)| *reached)
}
