//! Raft's timing: what a leader's death costs, against how easily a busy machine looks like one.

use std::time::Duration;

/// How often a leader is heard from.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
/// The least silence before an election. The greatest is twice that, which is also the leader's lease.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a start may take to become able to serve before it is given up.
pub(crate) const START_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long one step of the node's own work waits for its group.
pub(crate) const STEP_WAIT_MAX: Duration = Duration::from_secs(5);
