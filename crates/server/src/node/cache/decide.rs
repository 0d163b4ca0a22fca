//! What to do next about the cache group: a function of what is to be seen.

use std::collections::BTreeSet;

use consensus::{Member, Members, types::MemberId};
use state::{
    command::Registry,
    ids::NodeId,
    registry::{RegistryState, Standing},
};

use super::member::Start;

/// How far behind the leader's log a learner may be to become a voter, in entries.
const LAG_MAX: u64 = 200;

/// What this process can see.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// This node.
    pub(super) node: NodeId,
    /// The registry, as this node has applied it.
    pub(super) registry: RegistryState,
    /// What this process has registered as.
    pub(super) incarnation: Option<u64>,
    /// Whether this node leads the `values` group: the founder's word that the node set begins with it.
    pub(super) leads_values: bool,
    /// The generation of this process's member.
    pub(super) generation: Option<u64>,
    /// What the member sees when it leads with a quorum behind it.
    pub(super) leads: Option<Leads>,
    /// The word to drop this generation.
    pub(super) drop_generation: Option<u64>,
    /// Whether this process suspects the running generation itself.
    pub(super) suspects: bool,
    /// Whether this node hears of the `values` group: what it knows of the registry is about what there is.
    pub(super) hears_values: bool,
}

/// What the leader of the cache group sees.
#[derive(Clone, Debug)]
pub(super) struct Leads {
    /// The term of this leadership.
    pub(super) term: u64,
    /// The members.
    pub(super) members: Members,
    /// The last index of the leader's log.
    pub(super) last_index: u64,
    /// Whether the registry is no older than this leadership.
    pub(super) is_informed: bool,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, but wait for something to change.
    Wait,
    /// End the member, if there is one, and register this process anew.
    Register {
        /// What the node registered as last.
        previous: Option<u64>,
    },
    /// End the member, if there is one, and start this one.
    Start(Start),
    /// Propose this to the registry.
    Propose(Registry),
    /// As the leader: bring the registry up to what was committed before this leadership began.
    ReadRegistry {
        /// The generation that this member leads.
        generation: u64,
        /// In which term.
        term: u64,
    },
    /// As the leader: take this member in as a learner.
    AddLearner(MemberId),
    /// As the leader: these shall vote.
    SetVoters(BTreeSet<MemberId>),
    /// As the leader: take this learner out.
    RemoveLearner(MemberId),
    /// As the leader: report that the voters are the node set, when a quorum confirms that this member leads and the
    /// voters are still these ones.
    Report {
        /// The generation.
        generation: u64,
        /// The change of the node set that is settled by it, by its number.
        change: u64,
        /// The voters, as they were seen.
        voters: BTreeSet<MemberId>,
    },
    /// As the leader: let another voter lead.
    HandOver,
}

/// Decides.
pub(super) fn decide(seen: &Seen) -> Step {
    let registry = &seen.registry;
    let standing = match registry.nodes.get(&seen.node) {
        Some(standing) => *standing,
        // The founder's registration begins the node set; every other node waits until it is in it.
        None if registry.nodes.is_empty() && registry.generation == 0 && seen.leads_values => {
            return Step::Register { previous: None };
        }
        // One that was removed does not lead those that were not: it could not bring their voters in order.
        None => return if seen.leads.is_some() { Step::HandOver } else { Step::Wait },
    };
    if seen.incarnation.is_none() || standing.incarnation() != seen.incarnation {
        return Step::Register { previous: standing.incarnation() };
    }
    match standing {
        Standing::Unregistered => Step::Register { previous: None },
        _ if registry.is_lost() => Step::Propose(Registry::Reset { generation: registry.generation + 1 }),
        Standing::Out { .. } => Step::Wait,
        Standing::In { generation, incarnation } => {
            if seen.drop_generation == Some(generation) && seen.suspects {
                return Step::Register { previous: Some(incarnation) };
            }
            if seen.generation != Some(generation) {
                return Step::Start(start(seen, generation, incarnation));
            }
            match &seen.leads {
                None => Step::Wait,
                // It would not see who waits to be taken in, nor that it was removed itself.
                Some(_) if !seen.hears_values => Step::HandOver,
                Some(leads) => lead(registry, leads),
            }
        }
    }
}

fn start(seen: &Seen, generation: u64, incarnation: u64) -> Start {
    let member = MemberId { node: seen.node, incarnation };
    let first = seen.registry.first_voters.iter();
    let founders: Vec<MemberId> =
        first.map(|(node, incarnation)| MemberId { node: *node, incarnation: *incarnation }).collect();
    let is_founder = founders.contains(&member);
    Start {
        generation,
        member,
        founders: if is_founder { founders } else { Vec::new() },
        former_may_serve: seen.registry.former_may_serve,
    }
}

/// What the generation's leader does to bring voters and node set together, one step at a time.
fn lead(registry: &RegistryState, leads: &Leads) -> Step {
    let members = &leads.members;
    // An older leader may have made the voters those of a node set that this node has not heard of, and reported it:
    // with the old set in hand this one would undo that, and the next change would find voters it does not expect
    // (rule 5). Changes that come after this leadership began are no danger, since only its own reports settle them.
    if !leads.is_informed {
        return Step::ReadRegistry { generation: registry.generation, term: leads.term };
    }
    if !members.is_settled {
        // A change that another leader has left half done; one of our own is awaited before the next look.
        return Step::SetVoters(members.voters.clone());
    }
    let generation = registry.generation;
    let current = |node: &NodeId| match registry.nodes.get(node)? {
        Standing::In { generation: of, incarnation } if *of == generation => {
            Some(MemberId { node: *node, incarnation: *incarnation })
        }
        Standing::In { .. } | Standing::Out { .. } | Standing::Unregistered => None,
    };
    // A process that waits outside joins before it becomes anything in the group.
    for (node, standing) in &registry.nodes {
        if let Standing::Out { incarnation } = standing {
            return Step::Propose(Registry::Join { node: *node, incarnation: *incarnation, generation });
        }
    }
    let known = |id: &MemberId| members.members.iter().find(|member| member.id == *id);
    for id in registry.nodes.keys().filter_map(current) {
        match known(&id) {
            None => return Step::AddLearner(id),
            Some(member) if !member.is_voter && is_caught_up(member, leads.last_index) => {
                // It takes the place of its dead predecessor in the same change.
                let mut voters: BTreeSet<MemberId> =
                    members.voters.iter().filter(|voter| voter.node != id.node).copied().collect();
                voters.insert(id);
                return Step::SetVoters(voters);
            }
            Some(_) => {}
        }
    }
    let outside = members.voters.iter().find(|voter| !registry.nodes.contains_key(&voter.node));
    if let Some(outside) = outside
        && members.voters.len() > 1
    {
        let mut voters = members.voters.clone();
        voters.remove(outside);
        return Step::SetVoters(voters);
    }
    let is_left_over = |member: &&Member| !member.is_voter && current(&member.id.node) != Some(member.id);
    if let Some(dead) = members.members.iter().find(is_left_over) {
        return Step::RemoveLearner(dead.id);
    }
    let voters: BTreeSet<NodeId> = members.voters.iter().map(|voter| voter.node).collect();
    if registry.unsettled.is_some() && voters.iter().eq(registry.nodes.keys()) {
        return Step::Report { generation, change: registry.change, voters: members.voters.clone() };
    }
    Step::Wait
}

fn is_caught_up(member: &Member, last_index: u64) -> bool {
    member.matched_index.is_some_and(|matched| matched + LAG_MAX >= last_index)
}

#[cfg(test)]
mod tests {
    use consensus::types::Peer;
    use state::registry::NodeChange;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn inside(incarnation: u64) -> Standing {
        Standing::In { generation: 4, incarnation }
    }

    fn out(incarnation: u64) -> Standing {
        Standing::Out { incarnation }
    }

    fn registry(nodes: &[(NodeId, Standing)]) -> RegistryState {
        let first_voters = vec![(A, 1), (B, 2), (C, 3)];
        RegistryState {
            generation: 4,
            nodes: nodes.iter().copied().collect(),
            first_voters,
            ..RegistryState::default()
        }
    }

    /// Node A, whose process is incarnation 1.
    fn seen(registry: RegistryState) -> Seen {
        Seen {
            node: A,
            registry,
            incarnation: Some(1),
            leads_values: false,
            generation: Some(4),
            leads: None,
            drop_generation: None,
            suspects: false,
            hears_values: true,
        }
    }

    fn id(node: NodeId, incarnation: u64) -> MemberId {
        MemberId { node, incarnation }
    }

    fn leads(voters: &[MemberId], learners: &[MemberId]) -> Option<Leads> {
        let member = |id: &MemberId, is_voter| Member {
            id: *id,
            peer: Peer::default(),
            is_voter,
            matched_index: Some(100),
            last_contact: None,
        };
        let members = voters.iter().map(|id| member(id, true)).chain(learners.iter().map(|id| member(id, false)));
        let members =
            Members { members: members.collect(), voters: voters.iter().copied().collect(), is_settled: true };
        Some(Leads { term: 3, members, last_index: 120, is_informed: true })
    }

    #[test]
    fn a_new_process_registers_first() {
        let mut new = seen(registry(&[(A, inside(1)), (B, inside(2)), (C, inside(3))]));
        new.incarnation = None;
        new.generation = None;
        assert_eq!(decide(&new), Step::Register { previous: Some(1) });
        // So does one whose node has been registered by another process since.
        let other = seen(registry(&[(A, out(9)), (B, inside(2)), (C, inside(3))]));
        assert_eq!(decide(&other), Step::Register { previous: Some(9) });
        let mut founder = seen(RegistryState::default());
        founder.incarnation = None;
        assert_eq!(decide(&founder), Step::Wait, "another founds the set");
        founder.leads_values = true;
        assert_eq!(decide(&founder), Step::Register { previous: None });
    }

    #[test]
    fn a_lost_majority_is_followed_by_a_reset_and_a_lost_minority_is_not() {
        let two = seen(registry(&[(A, out(1)), (B, out(5)), (C, inside(3))]));
        assert_eq!(decide(&two), Step::Propose(Registry::Reset { generation: 5 }));
        let one = seen(registry(&[(A, out(1)), (B, inside(2)), (C, inside(3))]));
        assert_eq!(decide(&one), Step::Wait, "its leader takes it in");
    }

    #[test]
    fn a_first_voter_founds_and_a_later_one_waits_to_be_taken_in() {
        let mut first = seen(registry(&[(A, inside(1)), (B, inside(2)), (C, inside(3))]));
        first.generation = Some(3);
        let founders = vec![id(A, 1), id(B, 2), id(C, 3)];
        let expected = Start { generation: 4, member: id(A, 1), founders, former_may_serve: false };
        assert_eq!(decide(&first), Step::Start(expected));
        let mut later = seen(registry(&[(A, inside(8)), (B, inside(2)), (C, inside(3))]));
        later.incarnation = Some(8);
        later.generation = None;
        let expected = Start { generation: 4, member: id(A, 8), founders: Vec::new(), former_may_serve: false };
        assert_eq!(decide(&later), Step::Start(expected));
    }

    #[test]
    fn the_leader_swaps_a_dead_process_for_its_successor_in_order() {
        let voters = [id(A, 1), id(B, 2), id(C, 3)];
        let mut leader = seen(registry(&[(A, inside(1)), (B, inside(2)), (C, out(7))]));
        leader.leads = leads(&voters, &[]);
        let join = Registry::Join { node: C, incarnation: 7, generation: 4 };
        assert_eq!(decide(&leader), Step::Propose(join), "never a learner before it has joined");
        leader.registry = registry(&[(A, inside(1)), (B, inside(2)), (C, inside(7))]);
        assert_eq!(decide(&leader), Step::AddLearner(id(C, 7)));
        leader.leads = leads(&voters, &[id(C, 7)]);
        assert_eq!(decide(&leader), Step::SetVoters([id(A, 1), id(B, 2), id(C, 7)].into()));
        leader.leads = leads(&[id(A, 1), id(B, 2), id(C, 7)], &[id(C, 5)]);
        assert_eq!(decide(&leader), Step::RemoveLearner(id(C, 5)));
        leader.leads = leads(&[id(A, 1), id(B, 2), id(C, 7)], &[]);
        assert_eq!(decide(&leader), Step::Wait);
    }

    #[test]
    fn the_leader_brings_voters_and_node_set_together_and_reports_it() {
        let mut leader = seen(registry(&[(A, inside(1)), (B, inside(2))]));
        leader.registry.unsettled = Some(NodeChange::Removed(C));
        leader.registry.change = 6;
        leader.leads = leads(&[id(A, 1), id(B, 2), id(C, 3)], &[]);
        assert_eq!(decide(&leader), Step::SetVoters([id(A, 1), id(B, 2)].into()));
        leader.leads = leads(&[id(A, 1), id(B, 2)], &[]);
        let voters = [id(A, 1), id(B, 2)].into();
        assert_eq!(decide(&leader), Step::Report { generation: 4, change: 6, voters });
        // Not while the node that was added is no voter, or a change is half done.
        leader.registry = registry(&[(A, inside(1)), (B, inside(2)), (C, Standing::Unregistered)]);
        leader.registry.unsettled = Some(NodeChange::Added(C));
        assert_eq!(decide(&leader), Step::Wait);
        if let Some(leads) = &mut leader.leads {
            leads.members.is_settled = false;
        }
        assert_eq!(decide(&leader), Step::SetVoters([id(A, 1), id(B, 2)].into()));
    }

    /// What an uninformed leader would undo: the registry's next steps would then end a generation that has a quorum.
    #[test]
    fn a_new_leader_learns_of_the_node_set_before_it_touches_the_voters() {
        let d = NodeId(4);
        let e = NodeId(5);
        let mut current = registry(&[(A, inside(1)), (B, inside(2)), (C, inside(3)), (d, inside(4))]);
        let mut leader = seen(registry(&[(A, inside(1)), (B, inside(2)), (C, inside(3))]));
        leader.leads = leads(&[id(A, 1), id(B, 2), id(C, 3), id(d, 4)], &[]);
        let without_d = Step::SetVoters([id(A, 1), id(B, 2), id(C, 3)].into());
        assert_eq!(decide(&leader), without_d, "this is what the old registry asks for");
        leader.leads.as_mut().unwrap().is_informed = false;
        assert_eq!(decide(&leader), Step::ReadRegistry { generation: 4, term: 3 });
        // The set counts as settled. With the voters A, B and C, the next addition and three processes that start anew
        // end a generation in which B and C are a quorum.
        current.last_incarnation = 9;
        assert!(current.apply(&Registry::AddNode(e)).is_ok());
        for (node, previous) in [(A, Some(1)), (d, Some(4)), (e, None)] {
            assert!(current.apply(&Registry::Register { node, previous, nonce: 0 }).is_ok());
        }
        assert!(current.apply(&Registry::Reset { generation: 5 }).is_ok());
    }

    #[test]
    fn a_leader_that_is_out_of_the_set_or_hears_nothing_of_it_hands_over() {
        let mut removed = seen(registry(&[(B, inside(2)), (C, inside(3))]));
        assert_eq!(decide(&removed), Step::Wait);
        removed.leads = leads(&[id(A, 1), id(B, 2), id(C, 3)], &[]);
        assert_eq!(decide(&removed), Step::HandOver);
        let mut deaf = seen(registry(&[(A, inside(1)), (B, inside(2)), (C, out(7))]));
        deaf.leads = leads(&[id(A, 1), id(B, 2), id(C, 3)], &[]);
        assert!(matches!(decide(&deaf), Step::Propose(Registry::Join { .. })));
        deaf.hears_values = false;
        assert_eq!(decide(&deaf), Step::HandOver);
        deaf.leads = None;
        assert_eq!(decide(&deaf), Step::Wait, "as a follower it is of use");
    }

    #[test]
    fn a_generation_is_dropped_only_by_those_who_suspect_it_and_on_word() {
        let mut process = seen(registry(&[(A, inside(1)), (B, out(5)), (C, inside(3))]));
        process.suspects = true;
        assert_eq!(decide(&process), Step::Wait);
        process.drop_generation = Some(3);
        assert_eq!(decide(&process), Step::Wait, "the word is about another one");
        process.drop_generation = Some(4);
        assert_eq!(decide(&process), Step::Register { previous: Some(1) });
        process.suspects = false;
        assert_eq!(decide(&process), Step::Wait);
    }
}
