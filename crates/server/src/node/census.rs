//! What the leader learns of the other nodes from their renewals, beside their leases and states.
//!
//! 1. Whose disk is full. A leader whose own is hands over to a voter that has room: else a single full disk would stop the
//!    writes of all. Not where so many are full that a majority has no room: the next leader could not commit its first
//!    entry, without which nobody reads, while this one still answers for what is committed. There it refuses writes at
//!    once, and removes no node whose room the others need.
//! 2. Which identity runs twice: somebody has copied a data directory. Two processes of one node that ask in turn are seen
//!    by that: a process that has ended does not come back. A message or two of its last moment may, so it takes
//!    [`RETURNS_MAX`] of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use consensus::{Group, Member, types::MemberId};
use state::ids::NodeId;
use storage::disk::DiskEngine;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    desk::Desk,
    lease::Process,
    membership::is_heard,
    timing::{CONTACT_AGE_MAX, HAND_OVER_WAIT_MAX, LOOK},
};

/// How often a former process of a node may ask after its successor before it is sure that both run.
const RETURNS_MAX: u32 = 4;

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Census {
    nodes: BTreeMap<NodeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    process: u64,
    former: Option<u64>,
    returns: u32,
    is_disk_full: bool,
    since: Duration,
    at: Duration,
}

impl Entry {
    fn is_of_now(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) <= CONTACT_AGE_MAX
    }
}

/// Whether nothing that needs room can be committed, since so many of the voters are full, or are full or silent.
fn lacks_room(own: MemberId, members: &[Member], full: &BTreeSet<NodeId>) -> bool {
    let voters = || members.iter().filter(|member| member.is_voter);
    let is_full = |member: &Member| full.contains(&member.id.node);
    let fit = voters().filter(|member| (member.id == own || is_heard(member)) && !is_full(member)).count();
    voters().any(is_full) && 2 * fit <= voters().count()
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// For how long it has been the node's newest.
    pub(super) known_for: Duration,
    /// Whether another one runs under the same identity.
    pub(super) runs_twice: bool,
}

impl Census {
    /// Takes up what a process says when it asks for its lease.
    pub(super) fn report(&mut self, process: Process, is_disk_full: bool, now: Duration) -> Seen {
        let Process { node, id } = process;
        let first = Entry { process: id, former: None, returns: 0, is_disk_full, since: now, at: now };
        let entry = self.nodes.entry(node).or_insert(first);
        (entry.is_disk_full, entry.at) = (is_disk_full, now);
        if id != entry.process {
            entry.returns = if entry.former == Some(id) { entry.returns + 1 } else { 0 };
            entry.former = Some(std::mem::replace(&mut entry.process, id));
            entry.since = now;
        }
        Seen { known_for: now.saturating_sub(entry.since), runs_twice: entry.returns >= RETURNS_MAX }
    }

    fn has_room(&self, node: NodeId, now: Duration) -> bool {
        self.nodes.get(&node).is_some_and(|entry| entry.is_of_now(now) && !entry.is_disk_full)
    }

    /// The nodes that have said lately that their disk is full.
    pub(super) fn full(&self, now: Duration) -> BTreeSet<NodeId> {
        let full = self.nodes.iter().filter(|(_, entry)| entry.is_of_now(now) && entry.is_disk_full);
        full.map(|(node, _)| *node).collect()
    }

    /// The voter that a leader with a full disk hands over to, if a majority can take what the next one writes.
    fn successor(&self, own: MemberId, members: &[Member], now: Duration) -> Option<MemberId> {
        let voters = || members.iter().filter(|member| member.is_voter);
        let fit = || {
            let others = voters().filter(|member| member.id != own && is_heard(member));
            others.filter(|member| self.has_room(member.id.node, now))
        };
        let is_majority = fit().count() * 2 > voters().count();
        is_majority.then(fit)?.max_by_key(|member| member.matched_index).map(|member| member.id)
    }
}

/// Looks after full disks while this node leads the `values` group, for as long as the task lives: has writes refused while
/// a majority has no room, and hands over where only this node has none.
pub(super) async fn mind_full_disks(values: Group<DiskEngine>, desk: Arc<Desk>) {
    let full_nodes = desk.full_nodes();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let leads = values.status().is_leader;
        values.note_majority(leads && lacks_room(values.member(), &values.members().members, &full_nodes()));
        if !(values.is_disk_full() && leads) {
            continue;
        }
        let successor = desk.census().successor(values.member(), &values.members().members, desk.now());
        let Some(successor) = successor else { continue };
        tracing::warn!(to = %successor, "this node's disk is full: handing the leadership over to one that has room");
        if let Err(error) = values.transfer(successor, HAND_OVER_WAIT_MAX).await {
            tracing::warn!(%error, "the leadership was not taken over");
            sleep(HAND_OVER_WAIT_MAX).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus::types::Peer;

    use super::*;

    fn process(id: u64) -> Process {
        Process { node: NodeId(2), id }
    }

    #[test]
    fn processes_of_one_node_that_ask_in_turn_are_two_that_run() {
        let now = Duration::ZERO;
        let mut census = Census::default();
        // Restarts, each with a late word of the one before.
        for id in 1..20 {
            for asks in [id, id, id - 1, id] {
                assert!(!census.report(process(asks), false, now).runs_twice);
            }
        }
        assert!((0..20).any(|turn| census.report(process(30 + turn % 2), false, now).runs_twice));
    }

    #[test]
    fn who_has_said_it_lately_is_full() {
        let now = Duration::from_secs(60);
        let mut census = Census::default();
        for (node, is_disk_full) in [(1, true), (2, false), (3, true)] {
            census.report(Process { node: NodeId(node), id: 7 }, is_disk_full, now);
        }
        assert_eq!(census.full(now), [NodeId(1), NodeId(3)].into());
        assert_eq!(census.full(now + CONTACT_AGE_MAX * 2), BTreeSet::new(), "that was a while ago");
    }

    #[test]
    fn a_majority_needs_room_and_life() {
        // Nodes 1, the leader, and 3 are full; 9 is silent, and 8 as well, but no voter.
        let (own, full) = (MemberId::from(1), [NodeId(1), NodeId(3)].into());
        let member = |node: &u64| Member {
            id: MemberId::from(*node),
            peer: Peer::default(),
            is_voter: *node != 8,
            matched_index: Some(1),
            last_contact: (*node < 8).then_some(Duration::from_millis(10)),
        };
        for (nodes, expected) in [
            (&[1][..], true),
            (&[1, 2], true),
            (&[1, 2, 4], false),
            (&[1, 2, 4, 8], false),
            (&[1, 2, 3], true),
            (&[1, 2, 9], true),
            (&[1, 2, 4, 5, 9], false),
            (&[1, 2, 3, 4], true),
            (&[1, 2, 3, 4, 5], false),
        ] {
            let members: Vec<Member> = nodes.iter().map(member).collect();
            assert_eq!(lacks_room(own, &members, &full), expected, "{nodes:?}");
        }
        let none_is_full: Vec<Member> = [1, 9, 9].iter().map(member).collect();
        assert!(!lacks_room(own, &none_is_full, &BTreeSet::new()), "that is a lack of another kind");
    }

    #[test]
    fn who_has_room_and_is_furthest_takes_over() {
        let now = Duration::from_secs(60);
        let member = |node: u64, matched_index, last_contact_ms| Member {
            id: MemberId::from(node),
            peer: Peer::default(),
            is_voter: node != 5,
            matched_index: Some(matched_index),
            last_contact: Some(Duration::from_millis(last_contact_ms)),
        };
        let members =
            [member(1, 9, 0), member(2, 8, 10), member(3, 7, 10), member(4, 9, 10), member(5, 9, 10), member(6, 6, 10)];
        let mut census = Census::default();
        let own = MemberId::from(1);
        assert_eq!(census.successor(own, &members, now), None, "nobody has said that it has room");
        for (node, is_disk_full) in [(2, false), (3, false), (4, true), (5, false), (6, false)] {
            census.report(Process { node: NodeId(node), id: 7 }, is_disk_full, now);
        }
        assert_eq!(census.successor(own, &members, now), Some(MemberId::from(2)));
        census.report(Process { node: NodeId(2), id: 7 }, true, now);
        assert_eq!(census.successor(own, &members, now), None, "two of five voters could not commit anything");
        census.report(Process { node: NodeId(4), id: 7 }, false, now);
        assert_eq!(census.successor(own, &members, now), Some(MemberId::from(4)));
        assert_eq!(census.successor(own, &members, now + CONTACT_AGE_MAX * 2), None, "that was a while ago");
    }
}
