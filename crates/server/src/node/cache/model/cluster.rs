//! The cluster: processes, what they know, and the `values` group as a register that takes one change after another.

use std::{collections::BTreeMap, sync::Arc};

use consensus::types::MemberId;
use state::{
    command::Registry,
    ids::NodeId,
    outcome::{Done, Rejection},
    registry::{RegistryState, Standing},
};

use super::{
    raft::{Change, Config, Entry, Lead, Member, Payload, Voters, change},
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
    fn blame(&mut self, wrong: Wrong) {
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

    /// The member, if it is alive.
    pub(super) fn living(&self, generation: u64, id: &MemberId) -> Option<&Member> {
        self.member(id.node).filter(|member| member.generation == generation && member.id == *id)
    }

    /// Whether a quorum would confirm now that this member leads.
    pub(super) fn can_confirm(&self, leader: &Member) -> bool {
        let confirms = |id: &MemberId| {
            self.living(leader.generation, id).is_some_and(|member| *id == leader.id || member.term <= leader.term)
        };
        leader.lead.is_some() && leader.config().is_some_and(|(_, config)| config.is_quorum(confirms))
    }

    pub(super) fn can_serve(&self, leader: &Member) -> bool {
        let has_lease = leader.lead.as_ref().is_some_and(|lead| lead.has_lease);
        !leader.is_quiet && leader.has_committed_in_its_term() && (has_lease || self.can_confirm(leader))
    }

    /// Whether a generation could acknowledge something still.
    fn has_quorum(&self, generation: u64) -> bool {
        let lives = |id: &MemberId| self.living(generation, id).is_some();
        self.committed.get(&generation).is_some_and(|committed| committed.config.is_quorum(lives))
            || self.members().any(|member| member.generation == generation && self.can_confirm(member))
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
        let leads = process.member.as_ref().filter(|member| member.lead.is_some()).map(|member| Leads {
            members: member.seen(),
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

    fn change_members(&mut self, node: NodeId, wanted: &Change, without: Option<Rule>) -> Option<()> {
        let leader = self.member_mut(node)?;
        let config = change(leader, wanted, without != Some(Rule::JointConsensus))?;
        leader.append(Payload::Config(config));
        self.advance(node);
        Some(())
    }

    /// Commits on the leader what has its quorum, and notes what is acknowledged by it.
    pub(super) fn advance(&mut self, node: NodeId) {
        let Some(leader) = self.member_mut(node) else { return };
        let news = leader.advance();
        let (generation, leaders_term) = (leader.generation, leader.term);
        let none = || Committed { len: 0, term: 0, config: Config::default() };
        let committed = self.committed.entry(generation).or_insert_with(none);
        let mut is_late = false;
        // What an older leader has known before is no news.
        let known = committed.len;
        for (len, Entry { term, payload }) in news.into_iter().filter(|(len, _)| *len > known) {
            (committed.len, committed.term) = (len, term);
            match payload {
                Payload::Config(config) => committed.config = config,
                Payload::Write { is_late: of } => is_late |= of,
                Payload::Blank => {}
            }
        }
        if is_late {
            self.blame(Wrong::TwoGenerations);
        }
        let is_later =
            |member: &&Member| member.generation == generation && member.lead.is_some() && member.term > leaders_term;
        if self.members().filter(is_later).any(|later| !self.has_all_committed(later)) {
            self.blame(Wrong::LostWrite);
        }
    }

    /// Whether a member holds everything that was acknowledged in its generation.
    fn has_all_committed(&self, member: &Member) -> bool {
        self.committed
            .get(&member.generation)
            .is_none_or(|committed| member.log.get(committed.len - 1).is_some_and(|entry| entry.term == committed.term))
    }

    /// Elects a member by the votes of the nodes in `granters`, itself among them.
    pub(super) fn elect(&mut self, node: NodeId, granters: &[NodeId]) -> Option<()> {
        let (generation, own_id) = self.member(node).map(|member| (member.generation, member.id))?;
        let terms = granters.iter().filter_map(|node| self.member(*node)).map(|member| member.term);
        let term = terms.max()? + 1;
        if !self.has_all_committed(self.member(node)?) {
            self.blame(Wrong::LostWrite);
        }
        for member in self.processes.iter_mut().flatten().filter_map(|process| process.member.as_mut()) {
            if member.generation != generation {
                continue;
            }
            if let Some(lead) = &mut member.lead {
                // Its followers' promises have run out, or they would not vote.
                lead.has_lease = false;
            }
            if granters.contains(&member.id.node) {
                member.term = term;
                member.lead = None;
            }
            if member.id == own_id {
                member.lead = Some(Lead { acked: Vec::new(), has_lease: true });
                member.append(Payload::Blank);
            }
        }
        self.advance(node);
        Some(())
    }

    /// The leader's whole log reaches a member, and the acknowledgement the leader.
    pub(super) fn append(&mut self, from: NodeId, to: NodeId) -> Option<()> {
        let leader = self.member(from)?;
        let (_, config) = leader.config()?;
        let (term, log, commit, generation) = (leader.term, leader.log.clone(), leader.commit, leader.generation);
        let acked = leader.lead.as_ref()?.acked.clone();
        let (voters, learners) = (config.all_voters(), config.learners.clone());
        let member = self.member_mut(to)?;
        let is_addressed = voters.contains(&member.id) || learners.contains(&member.id);
        if from == to || member.generation != generation || !is_addressed || member.term > term {
            return None;
        }
        let id = member.id;
        if member.term == term && member.log == log && acked.contains(&(id, log.len())) {
            return None;
        }
        member.term = term;
        member.lead = None;
        member.commit = member.commit.max(commit);
        member.log = log.clone();
        self.member_mut(from)?.lead.as_mut()?.acknowledge(id, log.len());
        self.advance(from);
        Some(())
    }

    /// A member has been quiet for one lease and a margin. By then the lease of every leader of an older generation has
    /// run out, but one that a quorum could renew.
    pub(super) fn quiet_ends(&mut self, node: NodeId) {
        let Some(member) = self.member_mut(node) else { return };
        member.is_quiet = false;
        let generation = member.generation;
        let is_over = |member: &&Member| member.generation < generation && !self.can_confirm(member);
        let over: Vec<NodeId> = self.members().filter(is_over).map(|member| member.id.node).collect();
        for node in over {
            if let Some(lead) = self.member_mut(node).and_then(|member| member.lead.as_mut()) {
                lead.has_lease = false;
            }
        }
    }

    /// The smallest groups of nodes whose votes make a member the leader.
    pub(super) fn elections(&self, node: NodeId) -> Vec<Vec<NodeId>> {
        let Some(candidate) = self.member(node).filter(|member| member.lead.is_none()) else { return Vec::new() };
        let Some((_, config)) = candidate.config() else { return Vec::new() };
        let all: Voters = config.all_voters();
        if !all.contains(&candidate.id) {
            return Vec::new();
        }
        let grants = |id: &&MemberId| {
            self.living(candidate.generation, id).is_some_and(|member| member.last() <= candidate.last())
        };
        let willing: Vec<MemberId> = all.iter().filter(grants).copied().collect();
        let groups = (0..1_u32 << willing.len()).map(|mask| {
            let chosen = willing.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
            chosen.map(|(_, id)| *id).collect::<Voters>()
        });
        let is_smallest = |group: &Voters| {
            let without = |left: &MemberId| config.is_quorum(|id| id != left && group.contains(id));
            group.contains(&candidate.id)
                && config.is_quorum(|id| group.contains(id))
                && !group.iter().any(|left| *left != candidate.id && without(left))
        };
        groups.filter(is_smallest).map(|group| group.iter().map(|id| id.node).collect()).collect()
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
