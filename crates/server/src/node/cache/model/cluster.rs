//! The cluster: processes, what they know, and the `values` group as a register that takes one change after another.

use std::{collections::BTreeMap, sync::Arc};

use consensus::{Members, types::MemberId};
use state::{
    command::Registry,
    ids::NodeId,
    outcome::{Done, Rejection},
    registry::{RegistryState, Standing},
};

use super::{
    raft::{Change, Config, Member, Voters},
    rules::{Rule, apply, skip_join},
};
use crate::node::cache::{
    decide::{Leads, Seen, Step, decide},
    member::Start,
};

/// How much may still happen. What is bounded here is done by the world, and by Raft; what processes decide is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) crashes: u8,
    /// Processes that drop their generation.
    pub(super) drops: u8,
    pub(super) elections: u8,
    pub(super) writes: u8,
    /// Proposals to `values` that are not answered, and come late or never.
    pub(super) unanswered: u8,
    /// Nodes that fall behind with applying the registry.
    pub(super) lags: u8,
    /// Nodes that are added or removed.
    pub(super) changes: u8,
    /// The last generation that may begin.
    pub(super) generations: u8,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    /// The registry, as its node has applied it.
    pub(super) view: Arc<RegistryState>,
    /// Whether its node does not apply what is committed.
    pub(super) lags: bool,
    pub(super) incarnation: Option<u64>,
    /// The leadership, by generation and term, for which it has read the registry.
    pub(super) informed: Option<(u64, u64)>,
    pub(super) member: Option<Member>,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// An operation called after a later generation has served is acknowledged by an older one.
    TwoGenerations,
    /// An acknowledged write is missing from a later leader of its generation.
    LostWrite,
    /// A node that `values` calls out, or that never registered, has a living member.
    OutLives,
    /// A generation is ended that has a living quorum.
    QuorumOutvoted,
    /// The voters and the node set differ by more than one node: what makes a majority of one end every majority of the
    /// other.
    Apart,
}

/// What is known to be committed of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Committed {
    pub(super) len: usize,
    pub(super) term: u64,
    pub(super) config: Config,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) registry: Arc<RegistryState>,
    /// Unanswered proposals that may still be committed.
    pub(super) late: Vec<Registry>,
    /// By node, from 1 on; none while there is none.
    pub(super) processes: Vec<Option<Process>>,
    /// By generation.
    pub(super) committed: BTreeMap<u64, Committed>,
    /// The newest generation that has served, or could have.
    pub(super) served: u64,
    pub(super) wrong: Option<Wrong>,
    /// What is not looked for, to see what comes of it.
    pub(super) overlooked: Option<Wrong>,
    pub(super) budget: Budget,
}

pub(super) fn node(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

pub(super) fn at(node: NodeId) -> usize {
    node.0 as usize - 1
}

impl State {
    pub(super) fn blame(&mut self, wrong: Wrong) {
        if self.overlooked != Some(wrong) {
            self.wrong = Some(wrong);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.processes.iter().flatten().filter_map(|process| process.member.as_ref())
    }

    pub(super) fn member(&self, node: NodeId) -> Option<&Member> {
        self.processes[at(node)].as_ref()?.member.as_ref()
    }

    pub(super) fn member_mut(&mut self, node: NodeId) -> Option<&mut Member> {
        self.processes[at(node)].as_mut()?.member.as_mut()
    }

    /// Commits a change of the registry.
    pub(super) fn commit(&mut self, change: &Registry, without: Option<Rule>) -> Result<Done, Rejection> {
        let mut registry = RegistryState::clone(&self.registry);
        let done = apply(&mut registry, change, without)?;
        if matches!(done, Done::GenerationBegun { .. }) && self.has_quorum(self.registry.generation) {
            self.blame(Wrong::QuorumOutvoted);
        }
        self.registry = Arc::new(registry);
        if let Done::GenerationBegun { generation, voters } = &done {
            let voters = voters.iter().map(|(node, incarnation)| MemberId { node: *node, incarnation: *incarnation });
            let config = Config { voters: voters.collect(), ..Config::default() };
            self.committed.insert(*generation, Committed { len: 1, term: 0, config });
        }
        for process in self.processes.iter_mut().flatten().filter(|process| !process.lags) {
            process.view = self.registry.clone();
        }
        Ok(done)
    }

    /// What process `node` sees.
    pub(super) fn seen(&self, node: NodeId, without: Option<Rule>) -> Option<Seen> {
        let process = self.processes[at(node)].as_ref()?;
        let mut registry = RegistryState::clone(&process.view);
        if without == Some(Rule::JoinFirst) {
            skip_join(&mut registry);
        }
        let members = |member: &Member| {
            let members = member.seen();
            let is_settled = members.is_settled || without == Some(Rule::JointConsensus);
            Members { is_settled, ..members }
        };
        let leads = process.member.as_ref().filter(|member| member.lead.is_some()).map(|member| Leads {
            members: members(member),
            last_index: member.log.len() as u64,
            term: member.term,
            is_informed: process.informed == Some((member.generation, member.term))
                || without == Some(Rule::LeaderInformed),
        });
        Some(Seen {
            node,
            registry,
            incarnation: process.incarnation,
            leads_values: false,
            generation: process.member.as_ref().map(|member| member.generation),
            leads,
            drop_generation: None,
            suspects: false,
            hears_values: true,
        })
    }

    /// Carries out what a process has decided; none when nothing comes of it. A proposal without an answer may be
    /// committed later, or never.
    pub(super) fn carry_out(
        &mut self,
        node: NodeId,
        step: Step,
        is_answered: bool,
        without: Option<Rule>,
    ) -> Option<()> {
        match step {
            Step::Wait => None,
            Step::Register { previous } => {
                let process = self.processes[at(node)].as_mut()?;
                process.incarnation = None;
                process.informed = None;
                if without != Some(Rule::RegisterEndsMember) {
                    process.member = None;
                }
                let register = Registry::Register { node, previous, nonce: 0 };
                let done = self.propose(node, register, is_answered, without);
                if let Some(Done::Registered { incarnation, .. }) = done {
                    self.processes[at(node)].as_mut()?.incarnation = Some(incarnation);
                }
                Some(())
            }
            Step::Start(Start { generation, member, founders, former_may_serve }) => {
                let process = self.processes[at(node)].as_mut()?;
                let is_quiet = former_may_serve && without != Some(Rule::LeaseWait);
                process.informed = None;
                process.member = Some(Member::start(generation, member, founders.into_iter().collect(), is_quiet));
                Some(())
            }
            Step::Propose(change) => {
                self.propose(node, change, is_answered, without);
                Some(())
            }
            Step::Report { generation, change, voters } => {
                let leader = self.member(node)?;
                let is_confirmed = self.can_confirm(leader) && leader.has_committed_in_its_term();
                if !is_confirmed && without != Some(Rule::ReportConfirmed) {
                    return None;
                }
                debug_assert_eq!(leader.seen().voters, voters, "nothing happens between the look and the round here");
                self.propose(node, Registry::Settle { generation, change }, is_answered, without);
                Some(())
            }
            Step::ReadRegistry { generation, term } => {
                let registry = self.registry.clone();
                let process = self.processes[at(node)].as_mut()?;
                process.view = registry;
                process.informed = Some((generation, term));
                Some(())
            }
            Step::AddLearner(id) => self.change_members(node, &Change::AddLearner(id), without),
            Step::RemoveLearner(id) => self.change_members(node, &Change::RemoveLearner(id), without),
            Step::SetVoters(voters) => self.change_members(node, &Change::SetVoters(voters), without),
            Step::HandOver => {
                self.member_mut(node)?.lead.take()?;
                Some(())
            }
        }
    }

    fn propose(&mut self, node: NodeId, change: Registry, is_answered: bool, without: Option<Rule>) -> Option<Done> {
        let done = if is_answered {
            self.commit(&change, without).ok()
        } else {
            self.late.push(change);
            self.late.sort_unstable_by_key(|change| format!("{change:?}"));
            None
        };
        let registry = self.registry.clone();
        self.processes[at(node)].as_mut()?.view = registry;
        done
    }

    /// Looks whether anything is as it must never be, and who serves.
    pub(super) fn look(&mut self) {
        let serving = self.members().filter(|member| self.can_serve(member)).map(|member| member.generation);
        let serving: Vec<u64> = serving.collect();
        self.served = serving.iter().copied().fold(self.served, u64::max);
        if serving.iter().any(|generation| *generation < self.served) {
            self.blame(Wrong::TwoGenerations);
        }
        let is_in = |standing: &Standing| matches!(standing, Standing::In { .. });
        let mut standings = self.registry.nodes.iter();
        if standings.any(|(node, standing)| !is_in(standing) && self.member(*node).is_some()) {
            self.blame(Wrong::OutLives);
        }
        let differs = |voters: &Voters| {
            let outside = voters.iter().filter(|id| !self.registry.nodes.contains_key(&id.node)).count();
            let inside = |node: &&NodeId| !voters.iter().any(|id| id.node == **node);
            outside + self.registry.nodes.keys().filter(inside).count() > 1
        };
        if let Some(Committed { config, .. }) = self.committed.get(&self.registry.generation)
            && (differs(&config.voters) || config.next.as_ref().is_some_and(differs))
        {
            self.blame(Wrong::Apart);
        }
        let (running, processes) = (self.registry.generation, &self.processes);
        let lives = |generation: &u64| {
            // A node that lags may start a member of it still.
            let is_of = |process: &Process| {
                process.view.generation == *generation
                    || process.member.as_ref().is_some_and(|member| member.generation == *generation)
            };
            processes.iter().flatten().any(is_of)
        };
        self.committed.retain(|generation, _| *generation == running || lives(generation));
    }

    /// What a process does next.
    pub(super) fn next_step(&self, node: NodeId, without: Option<Rule>) -> Step {
        self.seen(node, without).map_or(Step::Wait, |seen| decide(&seen))
    }
}
