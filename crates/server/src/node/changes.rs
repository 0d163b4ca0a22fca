//! What an operator, or a node that starts, wants changed of the cluster: done by the leader of the `values` group.
//!
//! A change that is refused says why; one that is done already is done, or says that it is. Nothing of it is undone when
//! the asker goes away.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use consensus::{
    ChangeError, Group, Member, MemberChange, Members,
    types::{MemberId, Peer},
};
use state::{ids::NodeId, registry::NodeChange};
use storage::disk::DiskEngine;
use tokio::time::{Instant, sleep};

use super::{
    desk::Desk,
    membership::{Lack, is_heard, lack_without},
    timing::{CACHE_WAIT_MAX, CONTACT_AGE_MAX, HAND_OVER_WAIT_MAX, LOOK, RENEWAL_WAIT_MAX, STEP_WAIT_MAX},
};
use crate::peer::message::{Ask, Change, Condemned, Newcomer, Told};

const UNHEARD: &str = "the leader does not hear from a majority of the voters; bring nodes back first";
const UNDER_WAY: &str = "another change of the cluster's members is under way; try again when it is done";

/// Why a change is not made.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// It is done already.
    Done,
    /// It must not be made, with the reason.
    Refused(String),
    /// It is half done: it is decided when that has come to an end.
    HalfDone,
}

/// What is known of a node, should it be no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// It never was one.
    Stranger,
    /// It is leaving: its removal was begun here, or the Cache has not followed yet.
    Leaving,
    /// It was removed.
    Gone,
}

impl Past {
    fn of(values: &Group<DiskEngine>, node: NodeId) -> Self {
        let registry = values.local().registry().unwrap_or_default();
        if registry.nodes.contains_key(&node) || registry.unsettled == Some(NodeChange::Removed(node)) {
            Self::Leaving
        } else if registry.removed.contains(&node) {
            Self::Gone
        } else {
            Self::Stranger
        }
    }
}

impl Desk {
    pub(super) async fn change(&self, change: Change) -> Told {
        match change {
            Change::Add { address } => self.add(&address).await,
            Change::Remove { node } => self.remove(node).await,
            Change::Transfer { node } => self.transfer(node).await,
        }
    }

    /// Takes in a node that asks for it itself; one that was removed is told so.
    pub(super) async fn join(&self, newcomer: Newcomer) -> Told {
        if self.has_removed(newcomer.node) { Told::Condemned(Condemned::Removed) } else { self.take_in(newcomer).await }
    }

    /// Whether the node was removed for good, from the Cache's node set as well: nobody needs its process any more.
    pub(super) fn has_removed(&self, node: NodeId) -> bool {
        let registry = self.values.local().registry().unwrap_or_default();
        registry.removed.contains(&node) && registry.unsettled.is_none()
    }

    async fn take_in(&self, newcomer: Newcomer) -> Told {
        let Ok(registry) = self.values.local().registry() else { return Told::Unknown };
        let is_member = self.values.members().members.iter().any(|member| member.id.node == newcomer.node);
        // Who is in the cache's node set was a voter; the set follows a removal a moment later.
        let was_voter = registry.nodes.contains_key(&newcomer.node);
        if registry.removed.contains(&newcomer.node) || (was_voter && !is_member) {
            return Told::Refused(format!(
                "node {} was removed from the cluster; start it with an empty data directory to bring it back as a new one",
                newcomer.node
            ));
        }
        let Newcomer { node, address } = newcomer;
        let own = self.values.member();
        self.carry_out(move |members| take_in(own, members, node, &address)).await
    }

    async fn add(&self, address: &str) -> Told {
        let identity = match self.peers.ask(address, &Ask::Identify, RENEWAL_WAIT_MAX).await {
            Ok(Told::Identity(identity)) => identity,
            Ok(_) => return Told::Refused(format!("the node at {address} does not say who it is")),
            Err(error) => {
                return Told::Refused(format!(
                    "the node at {address} cannot be asked: {error}. A new node listens there once it has found its cluster: \
                     start it with `join` naming nodes that run, and it comes in by itself"
                ));
            }
        };
        let members = self.values.members().members;
        let known =
            members.into_iter().find(|member| member.id.node == identity.node && member.peer.address != address);
        if let Some(known) = known {
            // Another name for the same place may be one that the other nodes cannot use: "localhost".
            let old = &known.peer.address;
            let told = self.peers.ask(old, &Ask::Identify, RENEWAL_WAIT_MAX).await;
            if matches!(told, Ok(Told::Identity(old)) if old.node == identity.node) {
                return Told::Refused(format!(
                    "the node at {address} is node {}, a member already, and answers at {old}; to have it known by another \
                     address, set its peer_advertise and start it again",
                    identity.node
                ));
            }
        }
        self.take_in(Newcomer { node: identity.node, address: address.to_owned() }).await
    }

    async fn remove(&self, node: NodeId) -> Told {
        if node == self.node {
            self.await_majority_without(node).await;
            // Decided before the leadership moves for nothing; the next leader decides again.
            let lack = lack_without(self.values.member(), &self.values.members(), node, &self.full_nodes()());
            return match lack {
                Some(lack) if self.values.members().voters.len() > 1 => Told::Refused(lack.reason(node)),
                Some(_) | None => self.leave_to_another().await,
            };
        }
        let Ok(under_way) = self.removal.clone().try_lock_owned() else { return Told::Refused(UNDER_WAY.to_owned()) };
        self.await_majority_without(node).await;
        let (own, values, full_nodes) = (self.values.member(), self.values.clone(), self.full_nodes());
        // The second half of the change may be made by `membership.rs`, here or on the next leader: what was begun and is done
        // is no refusal.
        let is_begun = AtomicBool::new(false);
        let decide = move |members: &Members| {
            // Held for as long as the change may be made, also when nobody waits for it any more.
            let _ = &under_way;
            let past = if is_begun.load(Ordering::Relaxed) { Past::Leaving } else { Past::of(&values, node) };
            let decided = remove(own, members, node, past, &full_nodes());
            if matches!(decided, Ok(_) | Err(Stop::HalfDone)) {
                is_begun.store(true, Ordering::Relaxed);
            }
            decided
        };
        match self.carry_out(decide).await {
            Told::Done => self.await_out_of_cache(node).await,
            other => other,
        }
    }

    async fn await_majority_without(&self, node: NodeId) {
        let own = self.values.member();
        self.await_answers(|members| lack_without(own, members, node, &BTreeSet::new()) != Some(Lack::Answers)).await;
    }

    /// A leader that has just begun has not heard from everybody yet: it waits a moment for them before it says that they
    /// do not answer.
    async fn await_answers(&self, are_enough: impl Fn(&Members) -> bool) {
        let until = Instant::now() + CONTACT_AGE_MAX;
        while !are_enough(&self.values.members()) && self.values.status().is_leader && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    /// The Cache's members follow those of the Value Store. Until they have, the death of a process that left counts against
    /// the Cache's majority.
    async fn await_out_of_cache(&self, node: NodeId) -> Told {
        let until = Instant::now() + CACHE_WAIT_MAX;
        loop {
            let registry = self.values.local().registry();
            if registry.is_ok_and(|registry| !registry.nodes.contains_key(&node) && registry.unsettled.is_none()) {
                return Told::Done;
            }
            if Instant::now() >= until {
                return Told::Refused(format!(
                    "node {node} has been removed from the Value Store; the Cache's members have not followed yet. Leave its \
                     process running until `insic cluster status` shows the Cache without it"
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// The leader cannot take itself out: another one does, to which the asker comes by the answer.
    async fn leave_to_another(&self) -> Told {
        if self.values.members().voters.len() < 2 {
            return Told::Refused("the node is the only voter: without it there is no cluster".to_owned());
        }
        self.values.hand_over(HAND_OVER_WAIT_MAX).await;
        if self.values.status().is_leader {
            Told::Refused("the node leads, and no other voter can take over".to_owned())
        } else {
            self.leader()
        }
    }

    /// Makes one change of the members, in a task of its own: see `Lessor::change`.
    async fn carry_out(&self, decide: impl Fn(&Members) -> Result<MemberChange, Stop> + Send + Sync + 'static) -> Told {
        if self.lessor.confirm(RENEWAL_WAIT_MAX).await.is_none() {
            return if self.values.status().is_leader { Told::Refused(UNHEARD.to_owned()) } else { self.leader() };
        }
        let (lessor, values) = (self.lessor.clone(), self.values.clone());
        let changed = tokio::spawn(async move {
            let until = Instant::now() + STEP_WAIT_MAX;
            loop {
                match lessor.change(&decide).await {
                    // Somebody else was quicker: what is to be done is decided anew.
                    Ok(Err(ChangeError::Overtaken)) => {}
                    // It may be the second half of this one, of which no refusal must be made.
                    Ok(Err(ChangeError::UnderWay)) | Err(Stop::HalfDone)
                        if values.status().is_leader && Instant::now() < until =>
                    {
                        sleep(LOOK).await;
                    }
                    other => return other,
                }
            }
        });
        match changed.await {
            Ok(Ok(Ok(())) | Err(Stop::Done)) => Told::Done,
            Ok(Ok(Err(ChangeError::NotLeader | ChangeError::Overtaken))) => self.leader(),
            Ok(Err(Stop::Refused(reason))) => Told::Refused(reason),
            Ok(Ok(Err(ChangeError::UnderWay | ChangeError::OutcomeUnknown)) | Err(Stop::HalfDone)) | Err(_) => {
                Told::Unknown
            }
        }
    }

    /// Hands both groups' leadership to `to`, or to the voter that has come furthest, and says which of the two went.
    async fn transfer(&self, to: Option<NodeId>) -> Told {
        let own = self.values.member();
        let to = to.map(|node| MemberId { node, incarnation: 0 });
        if to != Some(own) {
            self.await_answers(|members| successor(own, members, to) != Err(NoSuccessor::Silent)).await;
            if !self.values.status().is_leader {
                // Whoever leads now may be told of a certain node. Else it would hand over what has just come to it.
                let moved = || Told::Refused("another node has taken the leadership over meanwhile".to_owned());
                return if to.is_some() { self.leader() } else { moved() };
            }
        }
        let target = match (successor(own, &self.values.members(), to), to) {
            (Ok(target), _) => target,
            (Err(NoSuccessor::NoVoter), Some(to)) => return Told::Refused(format!("node {} is no voter", to.node)),
            (Err(NoSuccessor::Silent), Some(to)) => {
                return Told::Refused(format!("node {} does not answer; nothing was changed", to.node));
            }
            (Err(NoSuccessor::NoVoter), None) => return Told::Refused("there is no other voter".to_owned()),
            (Err(NoSuccessor::Silent), None) => {
                return Told::Refused("there is no other voter that answers".to_owned());
            }
        };
        if self.full_nodes()().contains(&target.node) {
            return Told::Refused(format!(
                "node {}'s disk is full: make room there first; nothing was changed",
                target.node
            ));
        }
        // The cache's first: once another node leads the Value Store, the answer comes from there.
        if let Err(reason) = self.transfer_cache_from_its_leader(target.node).await {
            return Told::Refused(format!(
                "the Cache's leadership was not taken over: {reason}; the Value Store's stays"
            ));
        }
        if target == own {
            return Told::Done;
        }
        match self.values.transfer(target, HAND_OVER_WAIT_MAX).await {
            Ok(()) => Told::Done,
            Err(error) => Told::Refused(format!(
                "the Value Store's leadership was not taken over: {error}; node {} leads the Cache",
                target.node
            )),
        }
    }

    async fn transfer_cache_from_its_leader(&self, to: NodeId) -> Result<(), String> {
        let Some(cache) = self.cache.load_full() else { return Err("this node has no part in it yet".to_owned()) };
        let Some(leader) = cache.group.status().leader else { return Err("it has no leader now".to_owned()) };
        if leader.node == to {
            return Ok(());
        }
        let told = if leader.node == self.node {
            self.transfer_cache(to).await
        } else {
            let members = self.values.members().members;
            let peer = members.into_iter().find(|member| member.id.node == leader.node).map(|member| member.peer);
            let Some(peer) = peer else { return Err(format!("its leader {} is no member", leader.node)) };
            let ask = Ask::TransferCache { node: to };
            let wait_max = HAND_OVER_WAIT_MAX + RENEWAL_WAIT_MAX;
            self.peers.ask(&peer.address, &ask, wait_max).await.map_err(|error| error.to_string())?
        };
        match told {
            Told::Done => Ok(()),
            Told::Refused(reason) => Err(reason),
            other => Err(format!("its leader {} answers {other:?}", leader.node)),
        }
    }

    /// Hands the cache group's leadership, which this node has, to the member of `to`.
    pub(super) async fn transfer_cache(&self, to: NodeId) -> Told {
        let Some(cache) = self.cache.load_full() else {
            return Told::Refused("this node has no member of the cache group".to_owned());
        };
        if !cache.group.status().is_leader {
            return Told::Refused("this node does not lead the cache group".to_owned());
        }
        let voters = cache.group.members().voters;
        let Some(target) = voters.iter().filter(|voter| voter.node == to).max() else {
            return Told::Refused(format!("node {to} is no voter of the cache group"));
        };
        match cache.group.transfer(*target, HAND_OVER_WAIT_MAX).await {
            Ok(()) => Told::Done,
            Err(error) => Told::Refused(error.to_string()),
        }
    }
}

/// Why the leadership cannot be handed to the one that was asked for.
#[derive(Debug, PartialEq, Eq)]
enum NoSuccessor {
    NoVoter,
    /// The attempt itself would cost the group its writes for as long as it is waited for.
    Silent,
}

/// Who is to lead: `to`, or else the other voter that has come furthest; on the leader, which is `own`.
fn successor(own: MemberId, members: &Members, to: Option<MemberId>) -> Result<MemberId, NoSuccessor> {
    // Not one that is about to be none.
    let is_other = |member: &&Member| members.voters.contains(&member.id) && member.id != own;
    let others = || members.members.iter().filter(is_other);
    let heard = || others().filter(|member| is_heard(member));
    let furthest = || heard().max_by_key(|member| member.matched_index).map(|member| member.id);
    match to {
        None if others().next().is_none() => Err(NoSuccessor::NoVoter),
        Some(to) if !members.voters.contains(&to) => Err(NoSuccessor::NoVoter),
        Some(to) if to == own || heard().any(|member| member.id == to) => Ok(to),
        Some(_) => Err(NoSuccessor::Silent),
        None => furthest().ok_or(NoSuccessor::Silent),
    }
}

fn take_in(own: MemberId, members: &Members, node: NodeId, address: &str) -> Result<MemberChange, Stop> {
    let (id, peer) = (MemberId { node, incarnation: 0 }, Peer { address: address.to_owned() });
    if members.members.iter().any(|member| member.id == id && member.peer == peer) {
        return Err(Stop::Done);
    }
    // With one that cannot reach the leader the voters might have no majority that hears each other.
    let is_unreachable = |member: &Member| member.id == own && member.peer.address.is_empty();
    if id != own && members.members.iter().any(is_unreachable) {
        return Err(Stop::Refused(format!(
            "node {}, which leads, has no address yet that others could reach",
            own.node
        )));
    }
    // One that is silent may have lost its disk, and comes back at its address as another.
    let lives = |member: &&Member| member.id == own || is_heard(member);
    if let Some(other) = members.members.iter().filter(|member| member.id != id && member.peer == peer).find(lives) {
        return Err(Stop::Refused(format!("node {} is at {address}, and answers", other.id.node)));
    }
    if !members.is_settled {
        return Err(Stop::Refused(UNDER_WAY.to_owned()));
    }
    tracing::info!(%node, address, "a node joins, or has a new address");
    Ok(MemberChange::AddLearner(id, peer))
}

fn remove(
    own: MemberId,
    members: &Members,
    node: NodeId,
    past: Past,
    full: &BTreeSet<NodeId>,
) -> Result<MemberChange, Stop> {
    let id = MemberId { node, incarnation: 0 };
    let refused = |reason: String| Err(Stop::Refused(reason));
    let Some(member) = members.members.iter().find(|member| member.id == id) else {
        return match past {
            // What a leader has in its log may not be committed yet.
            Past::Leaving if !members.is_settled => Err(Stop::HalfDone),
            Past::Leaving => Err(Stop::Done),
            Past::Gone => refused(format!("node {node} has been removed already")),
            Past::Stranger => refused(format!("there is no node {node} in the cluster")),
        };
    };
    if !members.is_settled && member.is_voter && !members.voters.contains(&id) {
        // This very removal, which another leader has begun.
        return Err(Stop::HalfDone);
    }
    if !members.is_settled {
        return refused(UNDER_WAY.to_owned());
    }
    if !member.is_voter {
        return Ok(MemberChange::RemoveLearner(id));
    }
    if let Some(lack) = lack_without(own, members, node, full) {
        return refused(lack.reason(node));
    }
    let voters = members.voters.iter().copied().filter(|voter| *voter != id).collect();
    Ok(MemberChange::SetVoters(voters))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HEARD: Option<Duration> = Some(Duration::from_millis(40));
    const SILENT: Option<Duration> = Some(Duration::from_secs(9));
    const OWN: MemberId = MemberId { node: NodeId(1), incarnation: 0 };

    fn members(others: &[(u64, bool, &str, Option<Duration>)]) -> Members {
        let own = (1, true, "a", None);
        let member = |(node, is_voter, address, last_contact): (u64, bool, &str, _)| Member {
            id: MemberId::from(node),
            peer: Peer { address: address.to_owned() },
            is_voter,
            matched_index: Some(1),
            last_contact,
        };
        let members: Vec<Member> = [own].into_iter().chain(others.iter().copied()).map(member).collect();
        let voters = members.iter().filter(|member| member.is_voter).map(|member| member.id).collect();
        Members { members, voters, is_settled: true }
    }

    fn said(decided: Result<MemberChange, Stop>) -> String {
        match decided {
            Ok(MemberChange::AddLearner(id, peer)) => format!("add {} at {peer}", id.node.0),
            Ok(MemberChange::SetVoters(voters)) => {
                format!("voters {:?}", voters.iter().map(|voter| voter.node.0).collect::<Vec<_>>())
            }
            Ok(MemberChange::RemoveLearner(id)) => format!("remove learner {}", id.node.0),
            Err(Stop::Done) => "done".to_owned(),
            Err(Stop::HalfDone) => "half done".to_owned(),
            Err(Stop::Refused(reason)) => reason,
        }
    }

    #[test]
    fn leadership_goes_to_a_voter_that_is_heard() {
        let mut all =
            members(&[(2, true, "b", HEARD), (3, true, "c", SILENT), (4, true, "d", HEARD), (5, false, "e", HEARD)]);
        all.members[3].matched_index = Some(2);
        for (to, expected) in [
            (None, Ok(4)),
            (Some(1), Ok(1)),
            (Some(2), Ok(2)),
            (Some(3), Err(NoSuccessor::Silent)),
            (Some(5), Err(NoSuccessor::NoVoter)),
            (Some(6), Err(NoSuccessor::NoVoter)),
        ] {
            assert_eq!(successor(OWN, &all, to.map(MemberId::from)), expected.map(MemberId::from), "{to:?}");
        }
        assert_eq!(successor(OWN, &members(&[(2, true, "b", None)]), None), Err(NoSuccessor::Silent));
        assert_eq!(successor(OWN, &members(&[(2, false, "b", HEARD)]), None), Err(NoSuccessor::NoVoter), "alone");
        all.voters.remove(&MemberId::from(4));
        assert_eq!(successor(OWN, &all, None), Ok(MemberId::from(2)), "the fourth is leaving");
    }

    #[test]
    fn a_node_is_taken_in_at_an_address_where_nobody_else_answers() {
        let all = members(&[(2, true, "b", HEARD), (3, true, "c", SILENT)]);
        for (node, address, expected) in [
            (4, "d", "add 4 at d"),
            (2, "b", "done"),
            (2, "e", "add 2 at e"),
            (4, "c", "add 4 at c"),
            (4, "b", "node 0000000000000002 is at b, and answers"),
            (4, "a", "node 0000000000000001 is at a, and answers"),
            (2, "a", "node 0000000000000001 is at a, and answers"),
        ] {
            assert_eq!(said(take_in(OWN, &all, NodeId(node), address)), expected);
        }
        let mut unreachable = members(&[]);
        unreachable.members[0].peer.address.clear();
        assert_eq!(
            said(take_in(OWN, &unreachable, NodeId(4), "d")),
            "node 0000000000000001, which leads, has no address yet that others could reach"
        );
        assert_eq!(said(take_in(OWN, &unreachable, NodeId(1), "a")), "add 1 at a");
        let unsettled = Members { is_settled: false, ..all };
        assert_eq!(said(take_in(OWN, &unsettled, NodeId(4), "d")), UNDER_WAY);
        assert_eq!(said(take_in(OWN, &unsettled, NodeId(2), "b")), "done");
    }

    #[test]
    fn a_removal_is_made_or_refused_with_the_reason() {
        let no_majority = |node: u64| {
            let node = NodeId(node);
            format!("without node {node} the voters would have no majority that answers; bring the others back first")
        };
        let three = members(&[(2, true, "b", HEARD), (3, true, "c", SILENT), (4, false, "d", HEARD)]);
        let remove = |members: &Members, node, past| said(remove(OWN, members, NodeId(node), past, &BTreeSet::new()));
        for (node, past, expected) in [
            (3, Past::Leaving, "voters [1, 2]".to_owned()),
            (2, Past::Leaving, no_majority(2)),
            (4, Past::Stranger, "remove learner 4".to_owned()),
            (9, Past::Stranger, "there is no node 0000000000000009 in the cluster".to_owned()),
            (9, Past::Gone, "node 0000000000000009 has been removed already".to_owned()),
            (9, Past::Leaving, "done".to_owned()),
        ] {
            assert_eq!(remove(&three, node, past), expected);
        }
        // Learners give no majority.
        let two = members(&[(2, true, "b", SILENT), (3, true, "c", SILENT), (4, false, "d", HEARD)]);
        assert_eq!(remove(&two, 2, Past::Leaving), no_majority(2));
        let pair = members(&[(2, true, "b", SILENT)]);
        assert_eq!(remove(&pair, 2, Past::Leaving), "voters [1]");
        let unsettled = Members { is_settled: false, ..three };
        assert_eq!(remove(&unsettled, 3, Past::Leaving), UNDER_WAY);
        assert_eq!(remove(&unsettled, 9, Past::Leaving), "half done");
        assert_eq!(remove(&unsettled, 9, Past::Gone), "node 0000000000000009 has been removed already");
        // The voters that shall be are without it: it is on its way out.
        let half_done = Members { voters: [OWN, MemberId::from(2)].into(), ..unsettled };
        assert_eq!(remove(&half_done, 3, Past::Leaving), "half done");
        assert_eq!(remove(&half_done, 2, Past::Leaving), UNDER_WAY);
    }
}
