//! Who belongs to the cluster: one task that looks, decides and does, on whichever node leads the `values` group.
//!
//! 1. Whoever asks to join becomes a learner (`node/desk.rs`).
//! 2. A learner that has caught up becomes a voter. One at the peer address of a voter that is not heard from any more is
//!    the same machine with a new disk: it takes that one's place in the same change, when no lease of it can run
//!    (`lessor.rs`).
//! 3. The cache group's node set follows the voters, one node at a time (`ARCHITECTURE.md`, the volatile group, rule 5).
//!
//! Each step is decided anew from what is there, so that a crash or another leader goes on where it was.

use std::collections::BTreeSet;

use consensus::{Group, Member, MemberChange, Members, types::MemberId};
use state::{
    command::{Command, Registry},
    ids::NodeId,
    registry::{NodeChange, RegistryState},
};
use storage::disk::DiskEngine;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    lessor::Lessor,
    timing::{CONTACT_AGE_MAX, LOOK, STEP_WAIT_MAX},
};

/// The most voters: more make each write slower, and the cluster no safer. Further nodes stay learners.
const VOTERS_MAX: usize = 7;
/// How far behind the leader's log a learner may be to become a voter, in entries.
const LAG_MAX: u64 = 200;

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// These shall vote; former voters leave.
    SetVoters(BTreeSet<MemberId>),
    /// A node is a voter, and not yet in the cache's node set.
    Add(NodeId),
    /// A node is in the cache's node set, and no voter any more.
    Remove(NodeId),
}

/// Looks after the members for as long as the task lives.
pub(super) async fn run(values: Group<DiskEngine>, lessor: Lessor) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if !values.status().is_leader {
            continue;
        }
        if let Some(step) = next(&values, &values.members())
            && let Err(error) = carry_out(&values, &lessor, step.clone()).await
        {
            tracing::debug!(?step, error, "a step of the cluster's membership is tried again");
        }
    }
}

fn next(values: &Group<DiskEngine>, members: &Members) -> Option<Step> {
    // A state that cannot be read stops the node elsewhere.
    let registry = values.local().registry().ok()?;
    decide(values.member(), members, &registry, values.status().last_index)
}

async fn carry_out(values: &Group<DiskEngine>, lessor: &Lessor, step: Step) -> Result<(), String> {
    let command = match step {
        Step::SetVoters(voters) => {
            let names = voters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            tracing::info!(voters = names, "changing the voters");
            // Decided anew for as long as a lease is waited for: who was silent may be back.
            let decide = |members: &Members| match next(values, members) {
                Some(Step::SetVoters(now)) if now == voters => Ok(MemberChange::SetVoters(now)),
                _ => Err("it is not the next step any more"),
            };
            return match lessor.change(decide).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(moot) => Err(moot.to_owned()),
            };
        }
        Step::Add(node) => Command::Registry(Registry::AddNode(node)),
        Step::Remove(node) => Command::Registry(Registry::RemoveNode(node)),
    };
    // A refusal means that the registry has moved on: the next look sees it.
    let submitted = values.submit(command, Instant::now() + STEP_WAIT_MAX).await;
    submitted.map(drop).map_err(|error| error.to_string())
}

fn decide(own: MemberId, members: &Members, registry: &RegistryState, last_index: u64) -> Option<Step> {
    if !members.is_settled {
        // A change that another leader has left half done; one of our own is awaited before the next look.
        return Some(Step::SetVoters(members.voters.clone()));
    }
    next_set(members, registry)
        .or_else(|| members.members.iter().find_map(|member| promotion(own, members, member, last_index)))
}

/// The node set's next step towards the voters.
fn next_set(members: &Members, registry: &RegistryState) -> Option<Step> {
    // Before the founder has registered there is no set that could change. The leader itself may not be in it yet: it has
    // taken the place of a node that lost its disk, say.
    if registry.nodes.is_empty() {
        return None;
    }
    let voters: BTreeSet<NodeId> = members.voters.iter().map(|member| member.node).collect();
    match registry.unsettled {
        None => {}
        // It may have died before it voted in the cache, and then nothing would ever settle its addition: this alone may be
        // taken back (rule 5).
        Some(NodeChange::Added(node)) if !voters.contains(&node) => return Some(Step::Remove(node)),
        Some(NodeChange::Added(_) | NodeChange::Removed(_)) => return None,
    }
    let gone = registry.nodes.keys().find(|node| !voters.contains(node));
    let new = voters.iter().find(|node| !registry.nodes.contains_key(node) && !registry.removed.contains(node));
    gone.map(|node| Step::Remove(*node)).or(new.map(|node| Step::Add(*node)))
}

fn promotion(own: MemberId, members: &Members, learner: &Member, last_index: u64) -> Option<Step> {
    let is_caught_up = learner.matched_index.is_some_and(|matched| matched + LAG_MAX >= last_index);
    if learner.is_voter || !is_caught_up || !is_heard(learner) {
        return None;
    }
    let is_predecessor =
        |member: &&Member| member.is_voter && member.peer == learner.peer && member.id != own && !is_heard(member);
    let predecessor = members.members.iter().find(is_predecessor);
    let mut voters = members.voters.clone();
    match predecessor {
        Some(predecessor) => drop(voters.remove(&predecessor.id)),
        None if voters.len() >= VOTERS_MAX => return None,
        None => {}
    }
    voters.insert(learner.id);
    Some(Step::SetVoters(voters))
}

/// Whether the member answers; on the leader, and not for the leader itself.
pub(super) fn is_heard(member: &Member) -> bool {
    member.last_contact.is_some_and(|age| age <= CONTACT_AGE_MAX)
}

/// What the voters that stay would lack for going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// A majority that is heard from.
    Answers,
    /// A majority that is heard from and has room: the rest could commit no write, nor the change itself where one of them
    /// has no room for what comes before it.
    Room,
}

impl Lack {
    /// Why `node` is not removed, and what to do.
    pub(super) fn reason(self, node: NodeId) -> String {
        let (with, mend) = match self {
            Self::Answers => ("that answers", "bring the others back first"),
            Self::Room => ("with room on its disks", "make room on the others first"),
        };
        format!("without node {node} the voters would have no majority {with}; {mend}")
    }
}

/// What the voters without `node` would lack; on the leader. `full` are the nodes without room on their disks.
pub(super) fn lack_without(own: MemberId, members: &Members, node: NodeId, full: &BTreeSet<NodeId>) -> Option<Lack> {
    let rest = || members.members.iter().filter(|member| member.is_voter && member.id.node != node);
    let living = || rest().filter(|member| member.id == own || is_heard(member));
    let is_majority = |count: usize| 2 * count > rest().count();
    if !is_majority(living().count()) {
        Some(Lack::Answers)
    } else if !is_majority(living().filter(|member| !full.contains(&member.id.node)).count()) {
        Some(Lack::Room)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use consensus::types::Peer;
    use state::registry::Standing;

    use super::*;

    const HEARD: Option<Duration> = Some(Duration::from_millis(40));
    const SILENT: Option<Duration> = Some(Duration::from_secs(9));

    fn member(node: u64, is_voter: bool, address: &str, last_contact: Option<Duration>) -> Member {
        let peer = Peer { address: address.to_owned() };
        Member { id: MemberId::from(node), peer, is_voter, matched_index: Some(1_000), last_contact }
    }

    fn members(members: &[Member]) -> Members {
        let voters = members.iter().filter(|member| member.is_voter).map(|member| member.id).collect();
        Members { members: members.to_vec(), voters, is_settled: true }
    }

    fn registry(nodes: &[u64]) -> RegistryState {
        let nodes = nodes.iter().map(|node| (NodeId(*node), Standing::Unregistered)).collect();
        RegistryState { nodes, ..RegistryState::default() }
    }

    fn ids(nodes: &[u64]) -> BTreeSet<MemberId> {
        nodes.iter().map(|node| MemberId::from(*node)).collect()
    }

    const OWN: MemberId = MemberId { node: NodeId(1), incarnation: 0 };

    #[test]
    fn a_learner_that_has_caught_up_votes() {
        let mut all = members(&[member(1, true, "a", None), member(2, false, "b", HEARD)]);
        assert_eq!(decide(OWN, &all, &registry(&[1]), 1_100), Some(Step::SetVoters(ids(&[1, 2]))));
        assert_eq!(decide(OWN, &all, &registry(&[1]), 9_000), None, "it lags");
        all.members[1].last_contact = SILENT;
        assert_eq!(decide(OWN, &all, &registry(&[1]), 1_100), None, "it is gone again");
    }

    #[test]
    fn the_same_machine_with_a_new_disk_takes_the_old_ones_place() {
        let three = |old| {
            [member(1, true, "a", None), member(2, true, "b", HEARD), member(3, true, "c", old), {
                member(4, false, "c", HEARD)
            }]
        };
        let registry = registry(&[1, 2, 3]);
        let replaced = decide(OWN, &members(&three(SILENT)), &registry, 1_000);
        assert_eq!(replaced, Some(Step::SetVoters(ids(&[1, 2, 4]))));
        let beside = decide(OWN, &members(&three(HEARD)), &registry, 1_000);
        assert_eq!(beside, Some(Step::SetVoters(ids(&[1, 2, 3, 4]))), "two that answer are two");
    }

    #[test]
    fn the_caches_node_set_follows_the_voters_one_at_a_time() {
        let all = members(&[member(1, true, "a", None), member(2, true, "b", HEARD), member(3, true, "c", HEARD)]);
        assert_eq!(decide(OWN, &all, &registry(&[1]), 1_000), Some(Step::Add(NodeId(2))));
        assert_eq!(decide(OWN, &all, &registry(&[1, 2, 3, 9]), 1_000), Some(Step::Remove(NodeId(9))));
        let mut unsettled = registry(&[1, 2]);
        unsettled.unsettled = Some(NodeChange::Added(NodeId(2)));
        assert_eq!(decide(OWN, &all, &unsettled, 1_000), None);
        unsettled.unsettled = Some(NodeChange::Removed(NodeId(5)));
        assert_eq!(decide(OWN, &all, &unsettled, 1_000), None);
        assert_eq!(decide(OWN, &all, &registry(&[]), 1_000), None, "nobody has registered yet");
        assert_eq!(
            decide(OWN, &all, &registry(&[2, 3]), 1_000),
            Some(Step::Add(NodeId(1))),
            "the leader is new itself"
        );
        let mut removed = registry(&[1, 2]);
        removed.removed.insert(NodeId(3));
        assert_eq!(decide(OWN, &all, &removed, 1_000), None);
    }

    #[test]
    fn an_addition_is_taken_back_when_the_node_votes_no_more() {
        let all = members(&[member(1, true, "a", None), member(2, true, "b", HEARD)]);
        let mut registry = registry(&[1, 2, 5]);
        registry.unsettled = Some(NodeChange::Added(NodeId(5)));
        assert_eq!(decide(OWN, &all, &registry, 1_000), Some(Step::Remove(NodeId(5))));
    }

    #[test]
    fn a_change_left_half_done_is_finished_first() {
        let mut all = members(&[member(1, true, "a", None), member(2, true, "b", HEARD)]);
        all.is_settled = false;
        all.voters = ids(&[2]);
        assert_eq!(decide(OWN, &all, &registry(&[1, 7]), 1_000), Some(Step::SetVoters(ids(&[2]))));
    }

    #[test]
    fn a_removal_must_leave_a_living_majority_with_room() {
        let three = [member(1, true, "a", None), member(2, true, "b", HEARD), member(3, true, "c", SILENT)];
        let lack = |node, full: &[u64]| {
            let full = full.iter().map(|node| NodeId(*node)).collect();
            lack_without(OWN, &members(&three), NodeId(node), &full)
        };
        assert_eq!(lack(3, &[]), None);
        assert_eq!(lack(2, &[]), Some(Lack::Answers));
        assert_eq!(lack(3, &[3]), None, "what the one that goes has counts for nothing");
        for full in [&[1][..], &[2], &[1, 2]] {
            assert_eq!(lack(3, full), Some(Lack::Room), "{full:?}");
        }
    }
}
