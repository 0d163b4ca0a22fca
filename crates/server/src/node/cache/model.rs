//! A model of the volatile group (`ARCHITECTURE.md`): every order of events in small clusters, searched through.
//!
//! What runs in production is driven as it is: [`state::registry`] applies the changes, [`decide`](super::decide) says what
//! each process does next, [`suspicion`](super::suspicion) what it suspects. Abstract are Raft itself ([`raft`]) and the
//! `values` group, a register that takes one change after another. Each rule can be left out ([`rules`]): then the search
//! must find what the rule is there for.
//!
//! - [`cluster`]: what there is, and what processes do; [`group`]: what their members do.
//! - [`calm`]: what becomes of it once nothing fails any more.
//! - [`searches`]: the clusters that are searched, with and without each rule.

mod calm;
mod cluster;
mod group;
mod raft;
mod rules;
mod searches;

use std::{collections::HashSet, sync::Mutex};

use state::{command::Registry, ids::NodeId, registry::Standing};
use stateright::{Model, Property};

use self::{
    cluster::{Budget, Process, State, Wrong, at, node},
    raft::Payload,
    rules::Rule,
};
use super::decide::{Step, decide};

/// A cluster to search.
#[derive(Debug)]
struct Cluster {
    /// How many nodes there are.
    nodes: usize,
    /// How many of them are the voters of the first generation.
    voters: usize,
    budget: Budget,
    /// The rule that is left out.
    without: Option<Rule>,
    /// What is not looked for, to see what comes of it.
    overlooked: Option<Wrong>,
    /// Whether to look, from every state, what becomes of it in calm.
    calm: bool,
    /// The states that are known to serve again, by their hash.
    serve_again: Mutex<HashSet<u64>>,
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// A process does what it has decided.
    Act(NodeId),
    /// It does, and has no answer from `values`.
    ActUnanswered(NodeId),
    /// A process drops its generation.
    Drop(NodeId),
    Crash(NodeId),
    Restart(NodeId),
    /// A node falls behind with the registry.
    Lag(NodeId),
    /// It has caught up.
    Learn(NodeId),
    /// A member is elected by these nodes.
    Elect(NodeId, Vec<NodeId>),
    /// A leader's log reaches a member.
    Append(NodeId, NodeId),
    /// A leader is asked to write.
    Write(NodeId),
    /// A member has been quiet for a lease and a margin.
    QuietEnds(NodeId),
    /// An operator, or the voters of `values`, want a node in the set.
    Add(NodeId),
    /// Or out of it.
    Remove(NodeId),
    /// An unanswered proposal is committed after all.
    Late(usize),
    /// Somebody begins a generation, in turn or out of it: only where that rule is left out.
    ResetAnyway,
}

impl Cluster {
    fn actions_of(&self, state: &State, node: NodeId, process: &Process, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        let step = state.next_step(node, self.without);
        let proposes = matches!(step, Step::Register { .. } | Step::Propose(_) | Step::Report { .. });
        if step != Step::Wait {
            actions.push(Action::Act(node));
        }
        if proposes && budget.unanswered > 0 {
            actions.push(Action::ActUnanswered(node));
        }
        if budget.crashes > 0 {
            actions.push(Action::Crash(node));
        }
        if process.lags {
            actions.push(Action::Learn(node));
        } else if budget.lags > 0 {
            actions.push(Action::Lag(node));
        }
        let Some(member) = &process.member else { return };
        if budget.drops > 0 {
            actions.push(Action::Drop(node));
        }
        if member.is_quiet {
            actions.push(Action::QuietEnds(node));
        }
        if budget.elections > 0 {
            actions.extend(state.elections(node).into_iter().map(|granters| Action::Elect(node, granters)));
        }
        if member.lead.is_some() {
            let others = (0..self.nodes).map(cluster::node).filter(|to| *to != node);
            actions.extend(others.map(|to| Action::Append(node, to)));
            if budget.writes > 0 && !member.is_quiet {
                actions.push(Action::Write(node));
            }
        }
    }

    fn new_process(&self, state: &State, node: NodeId) -> Process {
        let view = state.registry.clone();
        let standing = view.nodes.get(&node).copied();
        let incarnation = standing.and_then(Standing::incarnation).filter(|_| self.without == Some(Rule::NewIdentity));
        Process { view, lags: false, incarnation, informed: None, member: None }
    }

    fn take(&self, state: &mut State, action: Action) -> Option<()> {
        let without = self.without;
        match action {
            Action::Act(node) => state.carry_out(node, state.next_step(node, without), true, without),
            Action::ActUnanswered(node) => {
                state.budget.unanswered -= 1;
                state.carry_out(node, state.next_step(node, without), false, without)
            }
            Action::Drop(node) => {
                state.budget.drops -= 1;
                let mut seen = state.seen(node, without)?;
                seen.suspects = true;
                seen.drop_generation = seen.generation;
                match decide(&seen) {
                    step @ Step::Register { .. } => state.carry_out(node, step, true, without),
                    _ => None,
                }
            }
            Action::Crash(node) => {
                state.budget.crashes -= 1;
                state.processes[at(node)].take().map(drop)
            }
            Action::Restart(node) => {
                state.processes[at(node)] = Some(self.new_process(state, node));
                Some(())
            }
            Action::Lag(node) => {
                state.budget.lags -= 1;
                state.processes[at(node)].as_mut()?.lags = true;
                Some(())
            }
            Action::Learn(node) => {
                let view = state.registry.clone();
                let process = state.processes[at(node)].as_mut()?;
                process.lags = false;
                process.view = view;
                Some(())
            }
            Action::Elect(node, granters) => {
                state.budget.elections -= 1;
                state.elect(node, &granters)
            }
            Action::Append(from, to) => state.append(from, to),
            Action::Write(node) => {
                state.budget.writes -= 1;
                let served = state.served;
                let leader = state.member_mut(node)?;
                leader.append(Payload::Write { is_late: served > leader.generation });
                state.advance(node);
                Some(())
            }
            Action::QuietEnds(node) => {
                state.quiet_ends(node);
                Some(())
            }
            Action::Add(node) => {
                state.budget.changes -= 1;
                state.commit(&Registry::AddNode(node), without).ok().map(drop)
            }
            Action::Remove(node) => {
                state.budget.changes -= 1;
                state.commit(&Registry::RemoveNode(node), without).ok().map(drop)
            }
            Action::Late(at) => {
                let change = state.late.remove(at);
                // A refusal is as good as a proposal that is never committed.
                state.commit(&change, without).ok().map(drop)
            }
            Action::ResetAnyway => {
                let generation = state.registry.generation + 1;
                state.commit(&Registry::Reset { generation }, without).ok().map(drop)
            }
        }
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.running()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        for (at, process) in state.processes.iter().enumerate() {
            match process {
                Some(process) => self.actions_of(state, node(at), process, actions),
                None => actions.push(Action::Restart(node(at))),
            }
            if state.budget.changes > 0 {
                let is_in = state.registry.nodes.contains_key(&node(at));
                actions.push(if is_in { Action::Remove(node(at)) } else { Action::Add(node(at)) });
            }
        }
        actions.extend((0..state.late.len()).map(Action::Late));
        let is_any_out = state.registry.nodes.values().any(|standing| matches!(standing, Standing::Out { .. }));
        if self.without == Some(Rule::MajorityOut) && is_any_out {
            actions.push(Action::ResetAnyway);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action)?;
        state.look();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two generations answer", |_, state| is_not(state, Wrong::TwoGenerations)),
            Property::always("no acknowledged write is lost", |_, state| is_not(state, Wrong::LostWrite)),
            Property::always("who is out has no member", |_, state| is_not(state, Wrong::OutLives)),
            Property::always("no living quorum is outvoted", |_, state| is_not(state, Wrong::QuorumOutvoted)),
            Property::always("voters and node set stay close", |_, state| is_not(state, Wrong::Apart)),
            Property::always("the cache serves again", |model: &Self, state| {
                !model.calm || calm::serves_again(model, state)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.registry.generation <= u64::from(state.budget.generations)
    }
}

fn is_not(state: &State, wrong: Wrong) -> bool {
    state.wrong != Some(wrong)
}
