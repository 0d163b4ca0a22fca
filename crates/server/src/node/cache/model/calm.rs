//! What becomes of a cluster once nothing fails any more: whoever can reach a majority must come to serve, and to rest.
//! Time passes here, in looks at a fixed distance, since suspicion is a matter of time.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use consensus::types::MemberId;
use state::{ids::NodeId, registry::Standing};

use super::{
    Cluster,
    cluster::{Budget, State, at, node},
    raft::Member,
    rules::Rule,
};
use crate::node::cache::{
    decide::{Step, decide},
    suspicion::{Doubt, Suspicions},
};

const LOOK: Duration = Duration::from_millis(250);
const RESET_AFTER: Duration = Duration::from_secs(3);
/// A minute.
const LOOKS_MAX: u32 = 240;
/// How long nothing must happen where somebody may go on suspecting: longer than it takes to act on that.
const RESTING_LOOKS: u32 = 20;
/// Steps of one process between two looks.
const STEPS_MAX: u32 = 8;

/// What stays broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Broken {
    /// A node that never comes back.
    dead: Option<NodeId>,
    /// Two nodes that never hear each other.
    deaf: Option<(NodeId, NodeId)>,
}

impl Broken {
    fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        self.deaf != Some((from, to)) && self.deaf != Some((to, from))
    }
}

/// Whether the cache serves again, and everything comes to rest, with all nodes, with any one of them gone for good, and
/// with any one link gone.
pub(super) fn serves_again(cluster: &Cluster, state: &State) -> bool {
    if state.wrong.is_some() {
        return true;
    }
    let nodes: Vec<NodeId> = state.registry.nodes.keys().copied().collect();
    let mut all = vec![Broken { dead: None, deaf: None }];
    if nodes.len() >= 3 {
        all.extend(nodes.iter().map(|node| Broken { dead: Some(*node), deaf: None }));
        let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b);
        all.extend(pairs.map(|pair| Broken { dead: None, deaf: Some(pair) }));
    }
    all.into_iter().all(|broken| {
        let state = calmed(cluster, state, broken);
        let mut hasher = DefaultHasher::new();
        (&state, broken).hash(&mut hasher);
        let hash = hasher.finish();
        let known = || cluster.serve_again.lock().expect("nobody panics with it in hand");
        if known().contains(&hash) {
            return true;
        }
        let serves = Calm::new(cluster, state, broken).run();
        if serves {
            known().insert(hash);
        }
        serves
    })
}

/// The faults are over: processes start again, late proposals arrive, every node applies what there is.
fn calmed(cluster: &Cluster, state: &State, broken: Broken) -> State {
    let mut state = state.clone();
    state.budget = Budget::default();
    state.served = 0;
    for change in std::mem::take(&mut state.late) {
        // It may well be refused.
        drop(state.commit(&change, cluster.without));
    }
    for at in 0..state.processes.len() {
        if state.processes[at].is_none() {
            state.processes[at] = Some(cluster.new_process(&state, node(at)));
        }
    }
    for process in state.processes.iter_mut().flatten() {
        process.lags = false;
        process.view = state.registry.clone();
    }
    if let Some(dead) = broken.dead {
        state.processes[at(dead)] = None;
    }
    state
}

/// One cluster's time in calm.
struct Calm<'a> {
    cluster: &'a Cluster,
    state: State,
    broken: Broken,
    doubts: BTreeMap<NodeId, Doubt>,
    suspicions: Suspicions,
    /// When each node last heard of a leader that counts, and of which generation.
    heard: BTreeMap<NodeId, (u64, Duration)>,
}

impl<'a> Calm<'a> {
    fn new(cluster: &'a Cluster, state: State, broken: Broken) -> Self {
        let (doubts, suspicions, heard) = Default::default();
        Self { cluster, state, broken, doubts, suspicions, heard }
    }

    fn run(mut self) -> bool {
        let mut resting = 0;
        for look in 0..LOOKS_MAX {
            let now = LOOK * look;
            self.raft();
            let suspects = self.suspect(now);
            let word = self.suspicions.generation_to_drop(&self.state.registry, now);
            let mut has_acted = false;
            for node in (0..self.state.processes.len()).map(node) {
                has_acted |= self.act(node, word, suspects.contains(&node));
            }
            self.state.look();
            if self.state.wrong.is_some() {
                return false;
            }
            resting = if has_acted || !self.serves() { 0 } else { resting + 1 };
            if resting > RESTING_LOOKS || (resting > 0 && suspects.is_empty()) {
                return true;
            }
        }
        false
    }

    fn has_quorum(&self, leader: &Member) -> bool {
        let acknowledges = |id: &MemberId| {
            let member = self.state.living(leader.generation, id);
            *id == leader.id
                || member.is_some_and(|member| {
                    member.term <= leader.term && self.broken.reaches(leader.id.node, member.id.node)
                })
        };
        leader.config().is_some_and(|(_, config)| config.is_quorum(acknowledges))
    }

    /// The newest leader of the running generation.
    fn leader(&self) -> Option<&Member> {
        let generation = self.state.registry.generation;
        let leaders = self.state.members().filter(|member| member.generation == generation && member.lead.is_some());
        leaders.max_by_key(|member| member.term)
    }

    fn serves(&self) -> bool {
        self.leader().is_some_and(|leader| self.has_quorum(leader) && self.state.can_serve(leader))
    }

    /// Raft does what it can: it elects where there is no leader with a quorum, and brings everyone up to date.
    fn raft(&mut self) {
        for at in 0..self.state.processes.len() {
            self.state.quiet_ends(node(at));
            let higher = |member: &Member| {
                let others = self.state.members().filter(|other| other.generation == member.generation);
                let mut others = others.filter(|other| self.broken.reaches(member.id.node, other.id.node));
                others.any(|other| other.term > member.term)
            };
            let is_deposed = self.state.member(node(at)).is_some_and(higher);
            if let Some(member) = self.state.member_mut(node(at)).filter(|_| is_deposed) {
                member.lead = None;
            }
        }
        if !self.leader().is_some_and(|leader| self.has_quorum(leader)) {
            let is_of_it = |node: &NodeId| {
                self.state.member(*node).is_some_and(|member| member.generation == self.state.registry.generation)
            };
            let mut candidates: Vec<NodeId> = (0..self.state.processes.len()).map(node).filter(is_of_it).collect();
            // Whoever hands over does so to another one.
            candidates.sort_by_key(|node| !self.state.registry.nodes.contains_key(node));
            let mut elections = candidates
                .into_iter()
                .flat_map(|node| self.state.elections(node).into_iter().map(move |granters| (node, granters)));
            let possible = elections.find(|(node, granters)| granters.iter().all(|to| self.broken.reaches(*node, *to)));
            if let Some((node, granters)) = possible {
                self.state.elect(node, &granters);
            }
        }
        let Some(leader) = self.leader().map(|leader| leader.id.node) else { return };
        // Once for the entries, and once for what is committed by it.
        for at in (0..self.state.processes.len()).chain(0..self.state.processes.len()) {
            if self.broken.reaches(leader, node(at)) {
                // Whoever is up to date has nothing to take.
                let _ = self.state.append(leader, node(at));
            }
        }
    }

    /// Who suspects the running generation now.
    fn suspect(&mut self, now: Duration) -> Vec<NodeId> {
        let without = self.cluster.without;
        let mut suspecting = Vec::new();
        for node in (0..self.state.processes.len()).map(node).filter(|node| self.state.processes[at(*node)].is_some()) {
            let standing = self.state.registry.nodes.get(&node).copied();
            let Some(Standing::In { generation, .. }) = standing else {
                self.doubts.remove(&node);
                self.suspicions.report(node, None, now);
                continue;
            };
            let member = self.state.member(node).filter(|member| member.generation == generation);
            if member.is_some_and(|member| self.hears_leader(member)) {
                self.heard.insert(node, (generation, now));
            }
            let heard = self.heard.get(&node).filter(|(of, _)| *of == generation);
            let quorum_age = heard.map(|(_, at)| now.saturating_sub(*at));
            let doubt = self.doubts.entry(node).or_default();
            let mut suspects = doubt.look(generation, quorum_age, true, now, RESET_AFTER);
            let votes =
                |member: &Member| member.config().is_some_and(|(_, config)| config.all_voters().contains(&member.id));
            if without == Some(Rule::LearnersSuspect) && !member.is_some_and(votes) {
                suspects = false;
            }
            if without != Some(Rule::SuspicionCounts) {
                self.suspicions.report(node, suspects.then_some(generation), now);
            }
            if suspects {
                suspecting.push(node);
            }
        }
        suspecting
    }

    fn hears_leader(&self, member: &Member) -> bool {
        self.leader().is_some_and(|leader| {
            let is_addressed = leader.config().is_some_and(|(_, config)| {
                config.learners.contains(&member.id) || config.all_voters().contains(&member.id)
            });
            let counts = self.has_quorum(leader) || self.cluster.without == Some(Rule::LeaderNeedsQuorum);
            counts && is_addressed && self.broken.reaches(leader.id.node, member.id.node)
        })
    }

    /// A process acts for as long as it has something to do; answers whether it had.
    fn act(&mut self, node: NodeId, word: Option<u64>, suspects: bool) -> bool {
        let without = self.cluster.without;
        for steps in 0..STEPS_MAX {
            let Some(mut seen) = self.state.seen(node, without) else { return steps > 0 };
            let has_quorum = self.state.member(node).is_some_and(|member| self.has_quorum(member));
            seen.leads = seen.leads.filter(|_| has_quorum);
            seen.suspects = suspects;
            seen.drop_generation = if without == Some(Rule::DropTogether) { seen.generation } else { word };
            let step = decide(&seen);
            if step == Step::Wait || self.state.carry_out(node, step, true, without).is_none() {
                return steps > 0;
            }
        }
        true
    }
}
