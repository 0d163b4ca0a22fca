//! The node lease: who may serve, and when a change of keys or limits is in force everywhere.
//!
//! Every node answers for keys and limits from its own copy of the `values` state. So that a key is dead everywhere when
//! its deletion is acknowledged:
//!
//! 1. A node serves only under a lease of the `values` leader: [`NODE_LEASE`] from the moment at which the node *asked*.
//! 2. The leader grants it only to members, after it has confirmed that it still leads, and only to a node that has
//!    applied at least the *floor*: every change that was ever acknowledged. The floor begins at what a new leader has
//!    applied when it begins, which holds all that its predecessors acknowledged.
//! 3. A change is acknowledged behind a *barrier*: the floor rises to the leader's applied index, and the barrier passes
//!    when every holder of a lease has applied that much, or its lease has run out on the leader's clock, which counts
//!    from the grant, later than the node's, and a margin longer.
//! 4. A new leader knows no grants but its own. It passes no barrier before every member has asked it for a lease, which
//!    ends what it held before, or one lease and the margin have passed since it began. Nobody but members holds a lease:
//!    one that is being removed is granted nothing more, and removed when its lease has run out.
//!
//! [`Leases`] is the leader's side, [`Holder`] the node's; both take the time as a parameter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use state::ids::NodeId;

use super::timing::{NODE_LEASE, NODE_LEASE_MARGIN};

/// This node's lease.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    valid_until_ns: AtomicU64,
}

impl Holder {
    /// Takes a lease that was asked for at the moment `asked_at`.
    pub(crate) fn granted(&self, asked_at: Duration) {
        self.valid_until_ns.fetch_max(nanos(asked_at + NODE_LEASE), Ordering::AcqRel);
    }

    /// Gives the lease up for good: the node must not serve any more.
    pub(crate) fn give_up(&self) {
        self.valid_until_ns.store(0, Ordering::Release);
    }

    /// Whether the node may serve at the moment `now`.
    pub(crate) fn is_valid(&self, now: Duration) -> bool {
        nanos(now) < self.valid_until_ns.load(Ordering::Acquire)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The leases that one leader has granted in one term.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    term: u64,
    leads_since: Duration,
    floor: u64,
    holders: BTreeMap<NodeId, Grant>,
    /// Members that are granted nothing any more.
    leaving: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    ends_at: Duration,
    applied: u64,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// Whether the lease is granted.
    pub(crate) granted: bool,
    /// What a node must have applied for that.
    pub(crate) floor: u64,
}

/// Whom a barrier waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Nobody: it has passed.
    Passed,
    /// A new leader, for old leases to end: until this moment at the latest.
    TooEarly(Duration),
    /// These nodes, each until this moment at the latest.
    Waits(Vec<(NodeId, Duration)>),
}

impl Leases {
    /// Begins anew when `term` is another one; `applied` is what the leader had applied after it was confirmed.
    pub(crate) fn enter(&mut self, term: u64, applied: u64, now: Duration) {
        if term != self.term {
            *self = Self { term, leads_since: now, floor: applied, ..Self::default() };
        }
    }

    /// Grants or refuses a lease to a member that has applied up to `applied`. The leader has confirmed its leadership
    /// since it was asked.
    pub(crate) fn renew(&mut self, node: NodeId, applied: u64, is_member: bool, now: Duration) -> Renewal {
        let granted = is_member && applied >= self.floor && !self.leaving.contains(&node);
        if granted {
            self.holders.insert(node, Grant { ends_at: now + NODE_LEASE + NODE_LEASE_MARGIN, applied });
        } else if !self.holders.contains_key(&node) && is_member {
            // It has asked this leader: whatever it held from another one has ended, or ends before it takes a new one.
            self.holders.insert(node, Grant { ends_at: now + NODE_LEASE + NODE_LEASE_MARGIN, applied });
        }
        Renewal { granted, floor: self.floor }
    }

    /// A change up to `index` waits to be in force: from here on nobody behind it is granted a lease.
    pub(crate) fn raise_floor(&mut self, index: u64) {
        self.floor = self.floor.max(index);
    }

    /// A node has said that it has applied up to `index`.
    pub(crate) fn applied(&mut self, node: NodeId, index: u64) {
        if let Some(grant) = self.holders.get_mut(&node) {
            grant.applied = grant.applied.max(index);
        }
    }

    /// Whether everything up to `index` is in force on every node that may serve.
    pub(crate) fn barrier(&self, index: u64, members: &BTreeSet<NodeId>, now: Duration) -> Barrier {
        let settled_at = self.leads_since + NODE_LEASE + NODE_LEASE_MARGIN;
        if now < settled_at && !members.iter().all(|member| self.holders.contains_key(member)) {
            return Barrier::TooEarly(settled_at);
        }
        let behind = self.holders.iter().filter(|(_, grant)| grant.applied < index && now < grant.ends_at);
        let behind: Vec<(NodeId, Duration)> = behind.map(|(node, grant)| (*node, grant.ends_at)).collect();
        if behind.is_empty() { Barrier::Passed } else { Barrier::Waits(behind) }
    }

    /// Grants nothing to this node any more; answers when its lease has run out.
    pub(crate) fn revoke(&mut self, node: NodeId) -> Duration {
        self.leaving.insert(node);
        let settled_at = self.leads_since + NODE_LEASE + NODE_LEASE_MARGIN;
        self.holders.get(&node).map_or(settled_at, |grant| grant.ends_at)
    }

    /// The node may be granted leases again: its removal did not come about.
    pub(crate) fn pardon(&mut self, node: NodeId) {
        self.leaving.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn members() -> BTreeSet<NodeId> {
        [A, B].into()
    }

    #[test]
    fn a_lease_runs_from_when_it_was_asked_for() {
        let holder = Holder::default();
        assert!(!holder.is_valid(s(0.0)));
        holder.granted(s(10.0));
        assert!(holder.is_valid(s(12.999)) && !holder.is_valid(s(13.0)));
        holder.granted(s(9.0)); // an answer that was long on its way shortens nothing
        assert!(holder.is_valid(s(12.999)));
        holder.give_up();
        assert!(!holder.is_valid(s(10.0)));
    }

    #[test]
    fn a_node_behind_the_floor_is_granted_nothing() {
        let mut leases = Leases::default();
        leases.enter(1, 50, s(0.0));
        assert_eq!(leases.renew(A, 49, true, s(0.1)), Renewal { granted: false, floor: 50 });
        assert_eq!(leases.renew(A, 50, true, s(0.2)), Renewal { granted: true, floor: 50 });
        leases.raise_floor(60);
        assert!(!leases.renew(A, 59, true, s(0.3)).granted);
        assert!(!leases.renew(B, 99, false, s(0.3)).granted, "it is no member");
    }

    #[test]
    fn a_barrier_waits_for_every_holder_or_the_end_of_its_lease() {
        let mut leases = Leases::default();
        leases.enter(1, 0, s(0.0));
        leases.renew(A, 10, true, s(1.0));
        assert!(matches!(leases.barrier(10, &members(), s(1.0)), Barrier::TooEarly(_)), "B may hold an old one");
        leases.renew(B, 9, true, s(1.0));
        leases.raise_floor(10);
        assert_eq!(leases.barrier(10, &members(), s(1.1)), Barrier::Waits(vec![(B, s(4.15))]));
        assert_eq!(leases.barrier(10, &members(), s(4.15)), Barrier::Passed);
        leases.applied(B, 10);
        assert_eq!(leases.barrier(10, &members(), s(1.1)), Barrier::Passed);
    }

    #[test]
    fn a_new_leader_waits_for_the_leases_of_its_predecessors() {
        let mut leases = Leases::default();
        leases.enter(7, 5, s(100.0));
        leases.renew(A, 5, true, s(100.1));
        assert_eq!(leases.barrier(5, &members(), s(103.1)), Barrier::TooEarly(s(103.15)));
        assert_eq!(leases.barrier(5, &members(), s(103.15)), Barrier::Passed);
        // A single node holds what it granted itself.
        assert_eq!(leases.barrier(5, &[A].into(), s(100.2)), Barrier::Passed);
    }

    #[test]
    fn a_node_that_leaves_is_granted_nothing_and_waited_out() {
        let mut leases = Leases::default();
        leases.enter(1, 0, s(0.0));
        leases.renew(B, 5, true, s(10.0));
        assert_eq!(leases.revoke(B), s(13.15));
        assert!(!leases.renew(B, 9, true, s(11.0)).granted);
        assert_eq!(leases.revoke(B), s(13.15), "a refusal makes it no longer");
        leases.pardon(B);
        assert!(leases.renew(B, 9, true, s(12.0)).granted);
    }

    /// Something that happens in the model: to node 0 or 1, in milliseconds after the last thing.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The node asks; its answer arrives this much later.
        Renew { node: usize, after_ms: u64 },
        /// The node applies what the leader has.
        Apply { node: usize },
        /// An administrator changes something and waits for the barrier.
        Change,
        /// Another leader takes over.
        Elect,
        /// Time passes.
        Wait { ms: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..2, 0_u64..4_000).prop_map(|(node, after_ms)| Step::Renew { node, after_ms }),
            (0_usize..2).prop_map(|node| Step::Apply { node }),
            Just(Step::Change),
            Just(Step::Elect),
            (1_u64..2_000).prop_map(|ms| Step::Wait { ms }),
        ]
    }

    /// A rule that the model leaves out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Without {
        Nothing,
        Floor,
        NewLeadersPatience,
        CountingFromTheQuestion,
    }

    struct Model {
        now: Duration,
        term: u64,
        leader_applied: u64,
        acknowledged: u64,
        leases: Leases,
        nodes: [(Holder, u64); 2],
        /// Answers on their way: when they arrive, for whom, and when they were asked for.
        answers: Vec<(Duration, usize, Duration)>,
    }

    const NODES: [NodeId; 2] = [A, B];

    impl Model {
        fn new() -> Self {
            let mut leases = Leases::default();
            leases.enter(1, 0, Duration::ZERO);
            Self {
                now: Duration::ZERO,
                term: 1,
                leader_applied: 0,
                acknowledged: 0,
                leases,
                nodes: Default::default(),
                answers: Vec::new(),
            }
        }

        fn pass(&mut self, time: Duration, without: Without) {
            self.now += time;
            let now = self.now;
            for (at, node, asked_at) in std::mem::take(&mut self.answers) {
                if at > now {
                    self.answers.push((at, node, asked_at));
                } else {
                    let from = if without == Without::CountingFromTheQuestion { at } else { asked_at };
                    self.nodes[node].0.granted(from);
                }
            }
        }

        fn run(&mut self, step: Step, without: Without) {
            match step {
                Step::Renew { node, after_ms } => {
                    let applied = if without == Without::Floor { u64::MAX } else { self.nodes[node].1 };
                    if self.leases.renew(NODES[node], applied, true, self.now).granted {
                        self.answers.push((self.now + Duration::from_millis(after_ms), node, self.now));
                    }
                    self.pass(Duration::ZERO, without);
                }
                Step::Apply { node } => {
                    self.nodes[node].1 = self.leader_applied;
                    self.leases.applied(NODES[node], self.leader_applied);
                }
                Step::Change => {
                    self.leader_applied += 1;
                    self.leases.raise_floor(self.leader_applied);
                    let is_patient = without != Without::NewLeadersPatience;
                    let members = if is_patient { members() } else { BTreeSet::new() };
                    if self.leases.barrier(self.leader_applied, &members, self.now) == Barrier::Passed {
                        self.acknowledged = self.leader_applied;
                    }
                }
                Step::Elect => {
                    self.term += 1;
                    self.leases.enter(self.term, self.leader_applied, self.now);
                }
                Step::Wait { ms } => self.pass(Duration::from_millis(ms), without),
            }
        }

        /// Whether a node may serve that has not applied what was acknowledged.
        fn is_broken(&self) -> bool {
            self.nodes.iter().any(|(holder, applied)| holder.is_valid(self.now) && *applied < self.acknowledged)
        }
    }

    fn breaks(steps: &[Step], without: Without) -> bool {
        let mut model = Model::new();
        steps.iter().any(|step| {
            model.run(*step, without);
            model.is_broken()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]
        /// No node serves under keys and limits older than an acknowledged change.
        #[test]
        fn what_is_acknowledged_is_in_force_wherever_a_node_serves(steps in prop::collection::vec(step(), 1..40)) {
            prop_assert!(!breaks(&steps, Without::Nothing));
        }
    }

    #[test]
    fn each_rule_is_needed() {
        let renew = |node, after_ms| Step::Renew { node, after_ms };
        let change = [Step::Change, Step::Apply { node: 0 }, renew(0, 0), Step::Change];
        let late = [renew(0, 0), renew(1, 2_900), Step::Wait { ms: 3_000 }, Step::Change, Step::Wait { ms: 500 }];
        let late = [&late[..], &[Step::Apply { node: 0 }, Step::Change][..]].concat();
        let cases = [
            (Without::Floor, vec![Step::Change, Step::Wait { ms: 3_200 }, Step::Change, renew(0, 0)]),
            (Without::NewLeadersPatience, vec![renew(0, 0), renew(1, 0), Step::Elect, Step::Change]),
            (Without::CountingFromTheQuestion, late),
        ];
        for (without, steps) in cases {
            assert!(breaks(&steps, without), "{without:?} does not break");
            assert!(!breaks(&steps, Without::Nothing), "{without:?}");
        }
        assert!(!breaks(&change, Without::Nothing));
    }
}
