//! The clusters that are searched, with every rule and without each.

use std::{collections::BTreeMap, sync::Arc};

use state::{command::Registry, ids::NodeId, registry::RegistryState};
use stateright::{Checker, HasDiscoveries, Model};

use super::{
    Cluster,
    cluster::{Budget, Process, State, Wrong, node},
    rules::Rule,
};
use crate::node::cache::decide::Step;

impl Cluster {
    fn new(nodes: usize, voters: usize, budget: Budget) -> Self {
        Self { nodes, voters, budget, without: None, overlooked: None, calm: false, serve_again: Default::default() }
    }

    fn without(mut self, rule: Rule) -> Self {
        self.without = Some(rule);
        self
    }

    fn overlooking(mut self, wrong: Wrong) -> Self {
        self.overlooked = Some(wrong);
        self
    }

    fn in_calm(mut self) -> Self {
        self.calm = true;
        self
    }

    /// The first generation, with the first node as its leader and everyone else up to date. The rest of the nodes are
    /// there, and not in the set. All of it came about by the rules.
    pub(super) fn running(&self) -> State {
        let mut state = State {
            registry: Arc::new(RegistryState::default()),
            late: Vec::new(),
            processes: vec![None; self.nodes],
            committed: BTreeMap::new(),
            served: 0,
            wrong: None,
            overlooked: self.overlooked,
            budget: self.budget,
        };
        for at in 0..self.nodes {
            state.processes[at] = Some(Process {
                view: state.registry.clone(),
                lags: false,
                incarnation: None,
                informed: None,
                member: None,
            });
        }
        let founders: Vec<NodeId> = (0..self.voters).map(node).collect();
        state.carry_out(founders[0], Step::Register { previous: None }, true, None);
        for node in &founders[1..] {
            state.commit(&Registry::AddNode(*node), None).expect("before the first generation the set changes freely");
        }
        for _ in 0..4 {
            for node in &founders {
                state.carry_out(*node, state.next_step(*node, None), true, None);
            }
        }
        state.elect(founders[0], &founders);
        for to in founders.iter().chain(&founders) {
            state.append(founders[0], *to);
        }
        state.look();
        state
    }

    /// Searches everything, or until all of `until` are found; answers which properties do not hold.
    #[allow(clippy::print_stderr, reason = "how a property fails is what a failed test is read for")]
    fn search(self, until: &[&'static str]) -> Vec<&'static str> {
        let until = match until {
            [] => HasDiscoveries::All,
            some => HasDiscoveries::AllOf(some.iter().copied().collect()),
        };
        let checker = self.checker().threads(2).finish_when(until).spawn_bfs().join();
        let mut found: Vec<_> = checker.discoveries().into_iter().collect();
        found.sort_by_key(|(name, _)| *name);
        for (name, path) in &found {
            eprintln!("not so: {name}, after {:?}", path.clone().into_actions());
        }
        found.into_iter().map(|(name, _)| name).collect()
    }
}

const NONE: Budget =
    Budget { crashes: 0, drops: 0, elections: 0, writes: 0, unanswered: 0, lags: 0, changes: 0, generations: 3 };
const NOTHING: [&str; 0] = [];

#[test]
fn three_nodes_that_crash_and_drop() {
    let budget = Budget { crashes: 1, drops: 1, elections: 1, writes: 1, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).search(&[]), NOTHING);
}

#[test]
fn three_nodes_that_crash_twice() {
    let budget = Budget { crashes: 2, elections: 1, writes: 1, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).search(&[]), NOTHING);
}

#[test]
fn three_nodes_with_two_elections() {
    let budget = Budget { crashes: 1, elections: 2, writes: 1, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).search(&[]), NOTHING);
}

#[test]
fn three_nodes_and_a_slow_values_group() {
    let budget = Budget { crashes: 1, elections: 1, unanswered: 1, lags: 1, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).search(&[]), NOTHING);
}

#[test]
fn one_node_grows_to_three() {
    let budget = Budget { crashes: 1, elections: 1, changes: 2, ..NONE };
    assert_eq!(Cluster::new(3, 1, budget).search(&[]), NOTHING);
}

#[test]
fn three_nodes_shrink() {
    let budget = Budget { crashes: 1, elections: 1, changes: 2, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).search(&[]), NOTHING);
}

#[test]
fn a_node_comes_and_goes() {
    let budget = Budget { elections: 1, changes: 3, ..NONE };
    assert_eq!(Cluster::new(4, 3, budget).search(&[]), NOTHING);
}

#[test]
fn two_nodes_one_of_which_is_removed() {
    let budget = Budget { crashes: 2, elections: 2, changes: 2, ..NONE };
    assert_eq!(Cluster::new(2, 2, budget).search(&[]), NOTHING);
}

#[test]
fn three_nodes_in_calm() {
    let budget = Budget { crashes: 2, elections: 1, ..NONE };
    assert_eq!(Cluster::new(3, 3, budget).in_calm().search(&[]), NOTHING);
}

#[test]
fn changes_in_calm() {
    let budget = Budget { crashes: 1, elections: 1, changes: 1, ..NONE };
    assert_eq!(Cluster::new(3, 2, budget).in_calm().search(&[]), NOTHING);
}

#[test]
fn growing_and_shrinking_in_calm() {
    let budget = Budget { elections: 1, changes: 2, ..NONE };
    assert_eq!(Cluster::new(3, 1, budget).in_calm().search(&[]), NOTHING);
    assert_eq!(Cluster::new(3, 3, budget).in_calm().search(&[]), NOTHING);
}

/// What a search finds when a rule is left out.
fn finds(cluster: Cluster, rule: Rule, property: &'static str) {
    let found = cluster.without(rule).search(&[property]);
    assert!(found.contains(&property), "without {rule:?}: {found:?}");
}

#[test]
fn rule_1_without_comparing_a_late_registration_declares_a_living_voter_out() {
    let budget = Budget { crashes: 1, unanswered: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::RegisterCompares, "who is out has no member");
}

#[test]
fn rule_1_a_process_that_registers_before_its_member_ends_is_out_and_votes() {
    let budget = Budget { drops: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::RegisterEndsMember, "who is out has no member");
}

#[test]
fn rule_2_with_its_old_identity_a_process_has_forgotten_what_it_acknowledged() {
    let budget = Budget { crashes: 1, elections: 1, writes: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::NewIdentity, "no acknowledged write is lost");
}

#[test]
fn rule_3_a_member_that_has_not_joined_is_out_and_votes() {
    let budget = Budget { crashes: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::JoinFirst, "who is out has no member");
}

/// What is left out is both halves: that the old voters agree as well, and that the change before is committed. The second
/// half alone protects what is searched here, since the predecessor that a process takes the place of votes for nobody.
#[test]
fn rule_3_without_joint_consensus_a_swap_loses_what_was_acknowledged() {
    let budget = Budget { crashes: 1, elections: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::JointConsensus, "no acknowledged write is lost");
}

#[test]
fn rule_4_without_a_majority_that_is_out_two_generations_answer() {
    let budget = Budget { crashes: 1, elections: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::MajorityOut, "no living quorum is outvoted");
    let overlooking = Cluster::new(3, 3, budget).overlooking(Wrong::QuorumOutvoted);
    finds(overlooking, Rule::MajorityOut, "no two generations answer");
}

#[test]
fn rule_4_without_the_wait_for_the_lease_two_generations_answer() {
    let budget = Budget { crashes: 2, elections: 1, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::LeaseWait, "no two generations answer");
}

#[test]
fn rule_4_a_removed_leader_outlives_the_generation_after_its_own() {
    let budget = Budget { crashes: 2, elections: 1, changes: 1, ..NONE };
    finds(Cluster::new(2, 2, budget), Rule::FormerRemembered, "no two generations answer");
}

#[test]
fn rule_5_a_set_that_grows_by_two_outvotes_a_living_quorum() {
    let budget = Budget { elections: 1, changes: 2, ..NONE };
    finds(Cluster::new(3, 1, budget), Rule::OneAtATime, "voters and node set stay close");
    finds(Cluster::new(3, 1, budget).overlooking(Wrong::Apart), Rule::OneAtATime, "no living quorum is outvoted");
    let five = Budget { changes: 2, drops: 1, ..NONE };
    finds(Cluster::new(5, 3, five).overlooking(Wrong::Apart), Rule::OneAtATime, "no living quorum is outvoted");
}

#[test]
fn rule_5_a_leader_that_has_not_read_the_registry_undoes_what_was_settled() {
    let budget = Budget { elections: 1, lags: 1, changes: 2, ..NONE };
    finds(Cluster::new(3, 3, budget), Rule::LeaderInformed, "voters and node set stay close");
    let and_crash = Budget { crashes: 1, ..budget };
    finds(
        Cluster::new(3, 3, and_crash).overlooking(Wrong::Apart),
        Rule::LeaderInformed,
        "no living quorum is outvoted",
    );
}

#[test]
fn rule_5_a_deposed_leader_settles_what_its_successor_has_yet_to_undo() {
    let budget = Budget { elections: 1, changes: 3, ..NONE };
    finds(Cluster::new(4, 3, budget), Rule::ReportConfirmed, "voters and node set stay close");
}

#[test]
fn rule_6_a_joined_process_that_never_resigns_keeps_the_cache_away() {
    let budget = Budget { crashes: 2, ..NONE };
    finds(Cluster::new(3, 3, budget).in_calm(), Rule::LearnersSuspect, "the cache serves again");
}

#[test]
fn rule_6_a_leader_without_a_quorum_keeps_the_cache_away() {
    let budget = Budget { crashes: 1, ..NONE };
    finds(Cluster::new(3, 3, budget).in_calm(), Rule::LeaderNeedsQuorum, "the cache serves again");
}

#[test]
fn rule_6_whoever_drops_on_its_own_drops_for_ever() {
    let budget = Budget { crashes: 1, ..NONE };
    finds(Cluster::new(3, 3, budget).in_calm(), Rule::DropTogether, "the cache serves again");
}

#[test]
fn rule_6_two_that_wait_for_each_other_wait_for_ever() {
    let budget = Budget { crashes: 1, ..NONE };
    finds(Cluster::new(3, 3, budget).in_calm(), Rule::SuspicionCounts, "the cache serves again");
}
