//! Says in the log who leads a group, whenever that changes: what an operator looks for first after a moment without writes.

use openraft::{Raft, async_runtime::watch::WatchReceiver as _};
use storage::Engine;

use crate::{state_machine::Machine, types::TypeConfig};

/// Tells for as long as the group runs.
pub(crate) async fn tell<E: Engine>(raft: Raft<TypeConfig, Machine<E>>, group: &'static str) {
    let mut metrics = raft.server_metrics();
    let mut known = None;
    loop {
        let (member, term, now) = {
            let now = metrics.borrow_watched();
            let term = now.vote.leader_id.term;
            (now.id, term, now.current_leader.map(|leader| (leader, term)))
        };
        if now != known {
            match (now, known) {
                (Some((leader, _)), _) if leader == member => tracing::info!(group, term, "this node leads"),
                (Some((leader, _)), _) => tracing::info!(group, %leader, term, "another node leads"),
                (None, Some((former, _))) => tracing::info!(group, %former, term, "the leader is lost; none is known"),
                (None, None) => {}
            }
            known = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
