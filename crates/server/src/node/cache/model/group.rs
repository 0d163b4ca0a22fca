//! What happens among the members of one generation: they elect, append, commit, serve, and change who they are.

use consensus::types::MemberId;
use state::ids::NodeId;

use super::{
    cluster::{Committed, State, Wrong},
    raft::{Change, Config, Entry, Lead, Member, Payload, Voters, change},
    rules::Rule,
};

impl State {
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
    pub(super) fn has_quorum(&self, generation: u64) -> bool {
        let lives = |id: &MemberId| self.living(generation, id).is_some();
        self.committed.get(&generation).is_some_and(|committed| committed.config.is_quorum(lives))
            || self.members().any(|member| member.generation == generation && self.can_confirm(member))
    }

    pub(super) fn change_members(&mut self, node: NodeId, wanted: &Change, without: Option<Rule>) -> Option<()> {
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
}
