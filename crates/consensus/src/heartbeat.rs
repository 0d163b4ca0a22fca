//! The pace of a leader's heartbeats.
//!
//! openraft sends a member its next heartbeat only when the last one was answered or given up, and has one number for
//! two things: how often heartbeats are sent, and how long the answer may take. Were that the 50 ms after which a leader
//! is to be heard again, a way to and fro of more than that, or a pause of the machine, would cost an idle leader its
//! quorum: an answer that comes later does not count. So openraft is given the longest time that does no harm, and is
//! told from here, more often, that the next heartbeat is due.
//!
//! 1. The time for an answer stays below the least election timeout. A heartbeat that is lost altogether holds up the
//!    next one so long, and the followers still hear that one before one of them would elect: they wait for a whole
//!    lease, twice the election timeout, and an election timeout on top.
//! 2. A heartbeat that is due while one is under way replaces any other that waits. So on a slow way there is one per way
//!    to and fro, sent at most one pace after its time: what the leader's lease is counted from.

use std::time::Duration;

use openraft::Raft;
use storage::Engine;
use tokio::time::MissedTickBehavior;

use crate::{state_machine::Machine, types::TypeConfig};

/// How long the answer to a heartbeat may take, where one is due every `pace`: as long as openraft allows, with room for
/// the granularity of its clock.
pub(crate) fn answer_wait_max(pace: Duration, election_timeout: Duration) -> Duration {
    election_timeout.saturating_sub(pace / 2).max(pace)
}

/// Has the member send heartbeats whenever it leads. Ends when the group has stopped.
pub(crate) async fn keep_pace<E: Engine>(raft: Raft<TypeConfig, Machine<E>>, pace: Duration) {
    let mut due = tokio::time::interval(pace);
    // After a pause of the machine one is enough.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}
