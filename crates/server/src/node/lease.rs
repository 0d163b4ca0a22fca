//! The node lease: who may serve, and when a change of keys or limits is in force everywhere.
//!
//! Every node answers for keys and limits from its own copy of the `values` state. So that a key is dead everywhere when
//! its deletion is acknowledged:
//!
//! 1. A node serves only under a lease of the `values` leader: [`NODE_LEASE`] from the moment at which the node *asked*.
//! 2. The leader grants it only to members, after it has confirmed that it still leads, and only to a process that has
//!    applied at least the *floor*: every change that was ever acknowledged. The floor begins at what a new leader has
//!    applied when it begins, which holds all that its predecessors acknowledged.
//! 3. A change is acknowledged behind a *barrier*: the floor rises to the leader's applied index, and the barrier passes
//!    when every process that holds a lease has applied that much, or its lease has run out on the leader's clock, which
//!    counts from the grant, later than the node's, and a margin longer.
//! 4. A new leader knows no grants but its own. It passes no barrier before a process of every member has asked it for a
//!    lease, or one lease and the margin have passed since it began.
//! 5. What is said of a process counts for that process alone: one that dies and comes back has applied less than its
//!    predecessor, until it has applied its log again. So processes have random ids, and grants are kept by them.
//! 6. Nobody but members holds a lease. So a node leaves the membership only by a leader on which, in that very term, no
//!    lease of the node can run any more: the leader grants it nothing while it leaves, waits for the last grant to run
//!    out, and proposes the change in the same term or not at all (`node/lessor.rs`).
//! 7. A process whose state was seen to differ is granted nothing again; nor does it take a lease after it has given up.
//!
//! Why it holds. Whoever confirms at some moment that it leads knows that nobody else had led by then, so every lease of
//! an earlier term was asked for before a leader's first confirmation, and has ended one lease and the margin after it.
//! That bounds rules 4 and 6. It can be sooner: a process that asks a leader has, from its predecessors, only leases that
//! it asked for earlier, since a node asks one question at a time and drops an answer that comes late; and it reports what
//! it has applied, so that its older leases are as good as what it says. An older process of the same node serves no more:
//! it holds the data directory's lock for as long as it lives. Its last grant is waited out all the same, since no rule
//! needs the lock there; it costs a barrier one lease after a crash. A report that a dead process sent, and that arrives
//! late, makes a member count as having asked; but what it says was applied before it was sent, less than any barrier of
//! this term, and so the barrier waits until the leases of all earlier terms have ended.
//!
//! A change of the membership by which a node leaves, appended in a term by a leader that has waited, is either in the log
//! of a later leader, for which the node is then no member, or it is not, and then it is never committed, once that later
//! leader has confirmed itself: its own first entry is. A later leader that finds only the first half of the change (a
//! joint configuration, of which the node still is a member) waits in its own term before it makes the second.
//!
//! [`Leases`] is the leader's side, [`Holder`] the node's; both take the time as a parameter. `lease/model.rs` runs them
//! under random schedules; each rule that is left out breaks it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use state::ids::NodeId;

use super::timing::{NODE_LEASE, NODE_LEASE_MARGIN};
use crate::peer::message::Condemned;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// One process of a node: a node that starts again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    /// The node.
    pub(crate) node: NodeId,
    /// Drawn at random when the process started.
    pub(crate) id: u64,
}

/// This node's lease.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// When it ends, in nanoseconds; [`GIVEN_UP`] is later than any time and means never again.
    valid_until_ns: AtomicU64,
}

const GIVEN_UP: u64 = u64::MAX;

impl Holder {
    /// Takes a lease that was asked for at the moment `asked_at`. One that was given up stays so.
    pub(crate) fn granted(&self, asked_at: Duration) {
        self.valid_until_ns.fetch_max(nanos(asked_at + NODE_LEASE), Ordering::AcqRel);
    }

    /// Ends the lease; the next grant begins another.
    pub(crate) fn suspend(&self) {
        let until = |until_ns| (until_ns != GIVEN_UP).then_some(0);
        // It fails only where it is given up already.
        let _ = self.valid_until_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, until);
    }

    /// Gives the lease up for good: this process must not serve any more, whatever it is granted.
    pub(crate) fn give_up(&self) {
        self.valid_until_ns.store(GIVEN_UP, Ordering::Release);
    }

    /// Whether the node may serve at the moment `now`.
    pub(crate) fn is_valid(&self, now: Duration) -> bool {
        let until_ns = self.valid_until_ns.load(Ordering::Acquire);
        until_ns != GIVEN_UP && nanos(now) < until_ns
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(GIVEN_UP - 1)
}

/// The leases that one leader has granted in one term, and what it knows of processes beyond that.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    term: u64,
    leads_since: Duration,
    floor: u64,
    /// Every process that has asked in this term. One of each node stays, as the sign that the node has asked.
    grants: BTreeMap<Process, Grant>,
    /// Nodes that are granted nothing, by how many attempts to remove them are under way. Not of one term.
    leaving: BTreeMap<NodeId, u32>,
    /// Processes that must end, and why. For good.
    condemned: BTreeMap<Process, Condemned>,
    /// Processes of which two differ, and it is not known who is right.
    doubted: BTreeSet<Process>,
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
    /// What a process must have applied for that.
    pub(crate) floor: u64,
}

/// Whom a barrier waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Nobody: it has passed.
    Passed,
    /// A new leader, for old leases to end: until this moment at the latest.
    TooEarly(Duration),
    /// These processes, each until this moment at the latest.
    Waits(Vec<(Process, Duration)>),
}

/// Whether nodes may leave the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Now: no lease of theirs can run.
    Now,
    /// Not before this moment.
    At(Duration),
    /// That is not known of this term.
    OtherTerm,
}

impl Leases {
    /// Begins anew when `term` is a later one; `applied` is what the leader had applied after it was confirmed. False when
    /// the term is over: a confirmation that took long counts for nothing.
    pub(crate) fn enter(&mut self, term: u64, applied: u64, now: Duration) -> bool {
        if term > self.term {
            (self.term, self.leads_since, self.floor) = (term, now, applied);
            self.grants.clear();
        }
        term == self.term
    }

    /// Grants or refuses a lease to a process that has applied up to `applied`. The leader has confirmed its leadership
    /// since it was asked.
    pub(crate) fn renew(&mut self, process: Process, applied: u64, is_member: bool, now: Duration) -> Renewal {
        let granted = is_member
            && applied >= self.floor
            && !self.leaving.contains_key(&process.node)
            && !self.condemned.contains_key(&process)
            && !self.doubted.contains(&process);
        if is_member {
            let old_leases_end_at = self.settled_at();
            let grant = self.grants.entry(process).or_insert(Grant { ends_at: old_leases_end_at, applied });
            grant.applied = grant.applied.max(applied);
            if granted {
                grant.ends_at = grant.ends_at.max(now + NODE_LEASE + NODE_LEASE_MARGIN);
            }
            // Former processes of the node, once nothing of theirs can run.
            self.grants.retain(|other, grant| other.node != process.node || *other == process || now < grant.ends_at);
        }
        Renewal { granted, floor: self.floor }
    }

    /// A change up to `index` waits to be in force: from here on nobody behind it is granted a lease.
    pub(crate) fn raise_floor(&mut self, index: u64) {
        self.floor = self.floor.max(index);
    }

    /// The process has said that it has applied up to `index`.
    pub(crate) fn applied(&mut self, process: Process, index: u64) {
        if let Some(grant) = self.grants.get_mut(&process) {
            grant.applied = grant.applied.max(index);
        }
    }

    /// Whether everything up to `index` is in force on every node that may serve.
    pub(crate) fn barrier(&self, index: u64, members: &BTreeSet<NodeId>, now: Duration) -> Barrier {
        let settled_at = self.settled_at();
        if now < settled_at && !members.iter().all(|member| self.grants_of(*member).next().is_some()) {
            return Barrier::TooEarly(settled_at);
        }
        let behind = self.grants.iter().filter(|(_, grant)| grant.applied < index && now < grant.ends_at);
        let behind: Vec<(Process, Duration)> = behind.map(|(process, grant)| (*process, grant.ends_at)).collect();
        if behind.is_empty() { Barrier::Passed } else { Barrier::Waits(behind) }
    }

    /// From here on the node is granted nothing, until [`Leases::end_departure`] has been called as often.
    pub(crate) fn begin_departure(&mut self, node: NodeId) {
        *self.leaving.entry(node).or_default() += 1;
    }

    /// The node has left, or its removal has not come about.
    pub(crate) fn end_departure(&mut self, node: NodeId) {
        let Some(attempts) = self.leaving.get_mut(&node) else { return };
        *attempts -= 1;
        if *attempts == 0 {
            self.leaving.remove(&node);
        }
    }

    /// Whether these nodes, whose departure has begun, may leave by a change that is proposed in `term`.
    pub(crate) fn may_leave(&self, term: u64, nodes: &BTreeSet<NodeId>, now: Duration) -> Leave {
        if term != self.term {
            return Leave::OtherTerm;
        }
        let ends_at = |node: &NodeId| {
            let of_this_term = self.grants_of(*node).map(|grant| grant.ends_at).max();
            of_this_term.unwrap_or_default().max(self.settled_at())
        };
        match nodes.iter().map(ends_at).max() {
            Some(at) if now < at => Leave::At(at),
            Some(_) | None => Leave::Now,
        }
    }

    /// The process must end: it is granted nothing any more.
    pub(crate) fn condemn(&mut self, process: Process, why: Condemned) {
        self.condemned.insert(process, why);
    }

    /// Why the process is condemned, if it is.
    pub(crate) fn condemned(&self, process: Process) -> Option<Condemned> {
        self.condemned.get(&process).cloned()
    }

    /// The process's state differs from another's, and it is not known whose is right: it is granted nothing until that
    /// is known. True when it was not in doubt before.
    pub(crate) fn doubt(&mut self, process: Process) -> bool {
        self.doubted.insert(process)
    }

    /// The process's state is a majority's.
    pub(crate) fn trust(&mut self, process: Process) {
        self.doubted.remove(&process);
    }

    /// Whether the process is in doubt.
    pub(crate) fn is_doubted(&self, process: Process) -> bool {
        self.doubted.contains(&process)
    }

    /// When every lease of an earlier term has ended.
    fn settled_at(&self) -> Duration {
        self.leads_since + NODE_LEASE + NODE_LEASE_MARGIN
    }

    fn grants_of(&self, node: NodeId) -> impl Iterator<Item = &Grant> {
        let of_node = Process { node, id: 0 }..=Process { node, id: u64::MAX };
        self.grants.range(of_node).map(|(_, grant)| grant)
    }
}
