//! The node's timing: what a leader's death costs, against how easily a busy machine looks like one.

use std::time::Duration;

/// How often a leader is heard from.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(50);
/// The least silence before an election. The greatest is twice that, which is also the leader's lease.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(175);
/// A leader's lease, and a margin for clocks that run at different speeds.
pub(crate) const RAFT_LEASE_AND_MARGIN: Duration = Duration::from_millis(2 * 175 + 50);
/// How long a node may serve from the moment at which it asked for its lease.
pub(crate) const NODE_LEASE: Duration = Duration::from_secs(3);
/// What the leader adds to a lease that it has granted, for clocks that run at different speeds.
pub(crate) const NODE_LEASE_MARGIN: Duration = Duration::from_millis(150);
/// How often a lease is renewed.
pub(crate) const RENEWAL: Duration = Duration::from_millis(250);
/// How long the leader may take to renew a lease.
pub(crate) const RENEWAL_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a voter may take to say what its state hashes to.
pub(crate) const HASH_WAIT_MAX: Duration = Duration::from_millis(300);
/// How long a report of a suspicion counts.
pub(crate) const SUSPICION_AGE_MAX: Duration = Duration::from_millis(1_500);
/// How much of the time between two looks at the cache counts against it.
pub(crate) const DOUBT_GAP_MAX: Duration = Duration::from_millis(500);
/// How often the cluster's members are looked at, and the cache's.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// A member that was heard from within this time counts as living.
pub(crate) const CONTACT_AGE_MAX: Duration = Duration::from_millis(1_500);
/// How long a change of the cache group's members is waited for.
pub(crate) const CHANGE_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the acknowledgement of a removal waits for the Cache's members to follow.
pub(crate) const CACHE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long one step of the node's own work waits for its group.
pub(crate) const STEP_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a leadership may take to be handed over at a stop.
pub(crate) const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a node that could not do its part as the cache's leader keeps the leadership when it gets it back.
pub(crate) const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);
/// How often a node that waits says so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two askings to be taken into the cluster.
pub(crate) const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// How often a member that knows no leader asks its peers: seldom beside an election, which it shall not be for.
pub(crate) const REJOIN_PAUSE: Duration = Duration::from_secs(3);
/// How often a node that starts looks whether it serves.
pub(crate) const WATCH: Duration = Duration::from_millis(5);
/// How long the leader keeps a report of shares without an answer when it has none to give.
pub(crate) const SHARES_HOLD: Duration = Duration::from_millis(100);
/// The least time between two reports of shares.
pub(crate) const SHARES_PAUSE: Duration = Duration::from_millis(2);
/// What each scope in a report adds to that.
pub(crate) const SHARES_PAUSE_PER_SCOPE: Duration = Duration::from_micros(25);
/// How often a node that has founded its cluster, and is alone in it, looks whether it was founded before.
pub(crate) const FOUNDING_LOOK: Duration = Duration::from_secs(1);
/// How long a node that is about to found its cluster waits for each peer's word that it was founded before.
pub(crate) const FOUNDING_WAIT_MAX: Duration = Duration::from_secs(1);
