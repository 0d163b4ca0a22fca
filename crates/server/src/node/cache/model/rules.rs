//! The rules, each of which can be left out.

use state::{
    command::Registry,
    outcome::{Done, Rejection},
    registry::{RegistryState, Standing},
};

/// A rule of `ARCHITECTURE.md`, the volatile group, with its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// 1: a registration names the incarnation that it follows.
    RegisterCompares,
    /// 1: the former member ends before its process registers.
    RegisterEndsMember,
    /// 2: a process that starts anew takes a new incarnation.
    NewIdentity,
    /// 3: a process joins before it becomes anything in the group.
    JoinFirst,
    /// 3: voters change with the consent of the old ones and the new ones, one change after another: joint consensus.
    JointConsensus,
    /// 4: a generation ends only when a majority of the node set is out.
    MajorityOut,
    /// 4: a new leader waits until an older one's lease has ended.
    LeaseWait,
    /// 4: one that may have lived beside the last generation may live beside this one.
    FormerRemembered,
    /// 5: a change of the node set waits until the one before is settled.
    OneAtATime,
    /// 5: a leader reads the registry before it touches the voters.
    LeaderInformed,
    /// 5: what settles a change is confirmed by a quorum.
    ReportConfirmed,
    /// 6: a process that is no voter yet suspects like any other.
    LearnersSuspect,
    /// 6: a leader counts only while it has a quorum.
    LeaderNeedsQuorum,
    /// 6: nobody drops a generation on its own.
    DropTogether,
    /// 6: those who suspect count as those who are out.
    SuspicionCounts,
}

/// Applies a change to the registry as `state` does, but for a rule that is left out.
pub(super) fn apply(registry: &mut RegistryState, change: &Registry, without: Option<Rule>) -> Result<Done, Rejection> {
    let mut change = change.clone();
    match (&mut change, without) {
        (Registry::Register { node, previous, .. }, Some(Rule::RegisterCompares)) => {
            *previous = registry.nodes.get(node).and_then(|standing| standing.incarnation());
        }
        (Registry::AddNode(_) | Registry::RemoveNode(_), Some(Rule::OneAtATime)) => registry.unsettled = None,
        (Registry::Reset { .. }, Some(Rule::FormerRemembered)) => registry.former_may_serve = false,
        (Registry::Reset { .. }, Some(Rule::MajorityOut)) => {
            for standing in registry.nodes.values_mut() {
                if let Some(incarnation) = standing.incarnation() {
                    *standing = Standing::Out { incarnation };
                }
            }
            let done = registry.apply(&change);
            registry.former_may_serve = true;
            return done;
        }
        _ => {}
    }
    registry.apply(&change)
}

/// The registry as a process acts upon it that skips the join.
pub(super) fn skip_join(registry: &mut RegistryState) {
    if registry.is_lost() {
        return;
    }
    let generation = registry.generation;
    for standing in registry.nodes.values_mut() {
        if let Standing::Out { incarnation } = *standing {
            *standing = Standing::In { generation, incarnation };
        }
    }
}
