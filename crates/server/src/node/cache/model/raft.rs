//! The cache's Raft group, as far as the rules need it: members with terms and logs, voters with joint consensus, a commit
//! by majorities, a lease. Appends and elections are one step each: a message that is late or lost is a step that is not
//! taken. What is left out is what Raft itself proves.

use std::{collections::BTreeSet, sync::Arc};

use consensus::{
    Member as MemberSeen, Members,
    types::{MemberId, Peer},
};

pub(super) type Voters = BTreeSet<MemberId>;

/// A membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Config {
    /// Who votes.
    pub(super) voters: Voters,
    /// In a transition: who will vote, and does already.
    pub(super) next: Option<Voters>,
    /// Who takes the log only.
    pub(super) learners: Voters,
}

impl Config {
    /// Whether those that hold are a majority of each set of voters.
    pub(super) fn is_quorum(&self, holds: impl Fn(&MemberId) -> bool) -> bool {
        let is_majority = |voters: &Voters| 2 * voters.iter().filter(|id| holds(id)).count() > voters.len();
        is_majority(&self.voters) && self.next.as_ref().is_none_or(is_majority)
    }

    /// Every voter of either set.
    pub(super) fn all_voters(&self) -> Voters {
        self.voters.iter().chain(self.next.iter().flatten()).copied().collect()
    }
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Payload {
    /// A leader's first entry.
    Blank,
    /// A write; called when a later generation had served already, or not.
    Write {
        /// Whether one had.
        is_late: bool,
    },
    /// A membership.
    Config(Config),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) payload: Payload,
}

/// A leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    /// Up to where each member has acknowledged the log. Those who are gone since stay in it: their acknowledgements may
    /// arrive late.
    pub(super) acked: Vec<(MemberId, usize)>,
    /// Whether its lease may still be valid.
    pub(super) has_lease: bool,
}

impl Lead {
    fn acked(&self, id: &MemberId) -> Option<usize> {
        self.acked.iter().find(|(of, _)| of == id).map(|(_, len)| *len)
    }

    pub(super) fn acknowledge(&mut self, id: MemberId, len: usize) {
        self.acked.retain(|(of, _)| *of != id);
        self.acked.push((id, len));
        self.acked.sort_unstable();
    }
}

/// A living member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) generation: u64,
    pub(super) id: MemberId,
    /// The term in which it voted, or followed, last.
    pub(super) term: u64,
    pub(super) log: Arc<Vec<Entry>>,
    /// How many entries it knows to be committed.
    pub(super) commit: usize,
    pub(super) lead: Option<Lead>,
    /// Whether it has to be quiet still when it leads (rule 4).
    pub(super) is_quiet: bool,
}

impl Member {
    /// A member that has just started, with its founders' membership if it is one of them.
    pub(super) fn start(generation: u64, id: MemberId, founders: Voters, is_quiet: bool) -> Self {
        let mut log = Vec::new();
        if !founders.is_empty() {
            log.push(Entry { term: 0, payload: Payload::Config(Config { voters: founders, ..Config::default() }) });
        }
        Self { generation, id, term: 0, commit: log.len(), log: Arc::new(log), lead: None, is_quiet }
    }

    /// The newest membership in the log, committed or not, with its place.
    pub(super) fn config(&self) -> Option<(usize, &Config)> {
        let mut entries = self.log.iter().enumerate().rev();
        entries.find_map(|(at, entry)| match &entry.payload {
            Payload::Config(config) => Some((at, config)),
            Payload::Blank | Payload::Write { .. } => None,
        })
    }

    /// Whether the newest membership is committed, as far as it knows.
    pub(super) fn knows_config_committed(&self) -> bool {
        self.config().is_some_and(|(at, _)| at < self.commit)
    }

    /// What elections compare.
    pub(super) fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |entry| entry.term), self.log.len())
    }

    pub(super) fn append(&mut self, payload: Payload) {
        let term = self.term;
        Arc::make_mut(&mut self.log).push(Entry { term, payload });
    }

    /// Whether an entry of its own term is committed.
    pub(super) fn has_committed_in_its_term(&self) -> bool {
        self.commit > 0 && self.log[self.commit - 1].term == self.term
    }

    /// As the leader: commits what a quorum has acknowledged, from its own term on. Answers what it learns to be committed
    /// by that, each with the length of the log up to it.
    pub(super) fn advance(&mut self) -> Vec<(usize, Entry)> {
        let (Some(lead), Some((_, config))) = (&self.lead, self.config()) else { return Vec::new() };
        let is_committed = |len: &usize| {
            self.log[len - 1].term == self.term
                && config.is_quorum(|id| *id == self.id || lead.acked(id).is_some_and(|acked| acked >= *len))
        };
        let Some(commit) = (self.commit + 1..=self.log.len()).rev().find(is_committed) else { return Vec::new() };
        let news = (self.commit + 1..=commit).map(|len| (len, self.log[len - 1].clone())).collect();
        self.commit = commit;
        let is_out = self
            .config()
            .is_some_and(|(at, config)| at < commit && config.next.is_none() && !config.voters.contains(&self.id));
        if is_out {
            // Its last act was to commit that it votes no more.
            self.lead = None;
        }
        news
    }

    /// What `Group::members` says on this member.
    pub(super) fn seen(&self) -> Members {
        let config = self.config().map(|(_, config)| config.clone()).unwrap_or_default();
        let voters = config.all_voters();
        let matched = |id: &MemberId| {
            let acked = if *id == self.id { Some(self.log.len()) } else { self.lead.as_ref()?.acked(id) };
            acked.map(|len| len as u64)
        };
        let members = voters.union(&config.learners).map(|id| MemberSeen {
            id: *id,
            peer: Peer::default(),
            is_voter: voters.contains(id),
            matched_index: matched(id),
            last_contact: None,
        });
        Members {
            members: members.collect(),
            is_settled: config.next.is_none() && self.knows_config_committed(),
            voters: config.next.clone().unwrap_or(config.voters.clone()),
        }
    }
}

/// The membership that a change leads to, or none when it is refused. Without joint consensus it takes effect on the leader's
/// word alone.
pub(super) fn change(member: &Member, change: &Change, has_joint: bool) -> Option<Config> {
    let (_, config) = member.config()?;
    if has_joint && !member.knows_config_committed() {
        return None;
    }
    match change {
        Change::AddLearner(id) => {
            let mut config = config.clone();
            config.learners.insert(*id);
            Some(config)
        }
        Change::RemoveLearner(id) => {
            let mut config = config.clone();
            config.learners.remove(id);
            Some(config)
        }
        Change::SetVoters(voters) => {
            let learners: Voters = config.learners.difference(voters).copied().collect();
            if config.next.as_ref() == Some(voters) || config.voters == *voters || !has_joint {
                return Some(Config { voters: voters.clone(), next: None, learners });
            }
            // From one transition to another through the newer of its two sets.
            let old = config.next.as_ref().unwrap_or(&config.voters);
            Some(Config { voters: old.clone(), next: Some(voters.clone()), learners })
        }
    }
}

/// A change of the members.
pub(super) enum Change {
    AddLearner(MemberId),
    RemoveLearner(MemberId),
    SetVoters(Voters),
}
