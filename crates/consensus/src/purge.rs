//! How much of the log is kept: what no checkpoint holds, and a tail for the members that lag.
//!
//! 1. Whatever a checkpoint holds could go: the next start begins behind it. But a member that was away for a minute, or
//!    restarts, would then need the whole state. So a tail of the newest entries stays, bounded in bytes. A group of one
//!    has nobody to keep it for.
//! 2. A member that lags further gets a snapshot. What is written while that is on its way must still be there when it
//!    has arrived, else the next snapshot would follow, and so on without end. So nothing goes that follows a snapshot on
//!    its way, within a wider bound: past that, room on the disk counts for more than one member's way back.
//! 3. openraft itself never purges what it is just sending to a member, and never what no checkpoint holds; behind an
//!    installed snapshot it purges by itself. A member that is sent entries and falls behind the wider bound is given up
//!    on (`lag.rs`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::{Raft, async_runtime::watch::WatchReceiver as _};
use storage::Engine;
use tokio::time::Instant;

use crate::{checkpoint::Source, lag::laggards, log::LocalLog, state_machine::Machine, types::TypeConfig};

/// How many tails are kept at most while a snapshot is on its way.
const TAILS_MAX: u64 = 16;
/// How far behind a member may fall at least that is sent entries, in bytes, however short the tail.
const LAG_BYTES_MIN: u64 = 16 << 20;
/// How long a snapshot counts as on its way after its end: until the leader knows that its receiver goes on from there,
/// and openraft holds the log for it.
const LINGER: Duration = Duration::from_secs(10);
/// How long openraft may take to learn of a checkpoint: it does between two entries.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The snapshots on their way to other members. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    /// The last index of each, and when it stops to count; none while it is on its way.
    pins: BTreeMap<u64, (u64, Option<Instant>)>,
}

/// One snapshot on its way; it is no more some time after this is dropped.
pub(crate) struct Pin {
    pins: Pins,
    number: u64,
}

impl Pins {
    /// Keeps what follows `index`.
    pub(crate) fn pin(&self, index: u64) -> Pin {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.pins.insert(number, (index, None));
        Pin { pins: self.clone(), number }
    }

    /// The index of the oldest snapshot that is on its way at `now`.
    fn lowest(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        state.pins.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        state.pins.values().map(|(index, _)| *index).min()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some((_, until)) = self.pins.state().pins.get_mut(&self.number) {
            *until = Some(Instant::now() + LINGER);
        }
    }
}

/// Tells openraft of the newest checkpoint, which comes up to `checkpointed`, and lets it purge the log as far as it
/// may. Answers up to where; none when nothing may go.
pub(crate) async fn purge<E: Engine>(
    raft: &Raft<TypeConfig, Machine<E>>,
    source: &Source<E>,
    checkpointed: u64,
) -> Option<u64> {
    let log = &*source.log;
    // A group that is stopping has no log to purge any more.
    raft.trigger().snapshot().await.ok()?;
    let known = |metrics: &openraft::RaftMetrics<TypeConfig>| {
        metrics.snapshot.as_ref().is_some_and(|last| last.index >= checkpointed)
    };
    // Should it take longer, the next checkpoint makes up for it.
    raft.wait(Some(NEWS_WAIT_MAX)).metrics(known, "openraft to know of the checkpoint").await.ok()?;
    let is_alone = raft.metrics().borrow_watched().membership_config.membership().nodes().count() <= 1;
    let upto =
        if is_alone { Some(checkpointed) } else { purgeable(log, source.pins.lowest(Instant::now()), checkpointed) }?;
    raft.trigger().purge_log(upto).await.ok()?;
    let bound = log.tail_start(log.tail_bytes().saturating_mul(TAILS_MAX).max(LAG_BYTES_MIN)).min(checkpointed);
    let laggards = laggards(&raft.metrics().borrow_watched(), bound);
    for member in laggards {
        tracing::warn!(%member, "too far behind: it takes a snapshot instead of the log");
        source.cuts.cut(member);
    }
    Some(upto)
}

/// Up to where the log may be purged when a checkpoint holds all up to `checkpointed`.
fn purgeable(log: &dyn LocalLog, pinned: Option<u64>, checkpointed: u64) -> Option<u64> {
    let before = |bytes: u64| log.tail_start(bytes).checked_sub(1).map(|upto| upto.min(checkpointed));
    let tail = before(log.tail_bytes())?;
    match pinned {
        Some(pinned) if pinned < tail => {
            let wider = before(log.tail_bytes().saturating_mul(TAILS_MAX));
            Some(wider.map_or(pinned, |wider| wider.max(pinned)))
        }
        Some(_) | None => Some(tail),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use state::ids::Position;
    use tokio::sync::oneshot;

    use super::*;

    /// A log of entries of one byte, 0 to 999, with a tail of ten.
    struct Bytes;

    impl LocalLog for Bytes {
        fn has_room_for(&self, _: u64, _: bool) -> bool {
            unreachable!("nobody asks here")
        }

        fn give_back(&self) {
            unreachable!("a purge asks for no room")
        }

        fn stalled_for(&self) -> Duration {
            Duration::ZERO
        }

        fn tail_bytes(&self) -> u64 {
            10
        }

        fn tail_start(&self, bytes: u64) -> u64 {
            1_000_u64.saturating_sub(bytes)
        }

        fn note_committed(&self, _: Position) -> oneshot::Receiver<io::Result<()>> {
            unreachable!("a purge notes nothing")
        }
    }

    #[test]
    fn a_tail_stays_and_what_no_checkpoint_holds() {
        assert_eq!(purgeable(&Bytes, None, 995), Some(989));
        assert_eq!(purgeable(&Bytes, None, 500), Some(500));
    }

    #[test]
    fn what_follows_a_snapshot_on_its_way_stays_within_the_wider_bound() {
        assert_eq!(purgeable(&Bytes, Some(900), 995), Some(900));
        assert_eq!(purgeable(&Bytes, Some(995), 995), Some(989));
        assert_eq!(purgeable(&Bytes, Some(100), 995), Some(1_000 - 10 * TAILS_MAX - 1));
        assert_eq!(purgeable(&Bytes, Some(100), 500), Some(500));
    }

    #[test]
    fn a_snapshot_counts_for_some_time_after_its_end() {
        let pins = Pins::default();
        let lowest_in = |time: Duration| pins.lowest(Instant::now() + time);
        let (older, newer) = (pins.pin(5), pins.pin(7));
        drop(older);
        assert_eq!(lowest_in(LINGER / 2), Some(5));
        assert_eq!(lowest_in(LINGER), Some(7));
        drop(newer);
        assert_eq!(lowest_in(2 * LINGER), None);
    }
}
