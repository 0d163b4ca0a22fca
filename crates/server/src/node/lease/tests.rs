//! The rules one by one.

use super::*;

const A: Process = Process { node: NodeId(1), id: 10 };
const B: Process = Process { node: NodeId(2), id: 20 };
/// Node B, started again.
const B_AGAIN: Process = Process { node: NodeId(2), id: 5 };

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn members() -> BTreeSet<NodeId> {
    [A.node, B.node].into()
}

fn leases(term: u64, applied: u64, since: f64) -> Leases {
    let mut leases = Leases::default();
    assert!(leases.enter(term, applied, s(since)));
    leases
}

#[test]
fn a_lease_runs_from_when_it_was_asked_for() {
    let holder = Holder::default();
    assert!(!holder.is_valid(s(0.0)));
    holder.granted(s(10.0));
    assert!(holder.is_valid(s(12.999)) && !holder.is_valid(s(13.0)));
    holder.granted(s(9.0)); // an answer that was long on its way shortens nothing
    assert!(holder.is_valid(s(12.999)));
    holder.suspend();
    assert!(!holder.is_valid(s(10.0)));
    holder.granted(s(11.0));
    assert!(holder.is_valid(s(13.999)));
}

#[test]
fn who_gave_up_stays_out() {
    let holder = Holder::default();
    holder.granted(s(10.0));
    holder.give_up();
    assert!(!holder.is_valid(s(10.0)));
    holder.granted(s(11.0));
    holder.suspend();
    holder.granted(s(12.0));
    assert!(!holder.is_valid(s(12.0)) && !holder.is_valid(s(0.0)));
}

#[test]
fn a_process_behind_the_floor_is_granted_nothing() {
    let mut leases = leases(1, 50, 0.0);
    assert_eq!(leases.renew(A, 49, true, s(0.1)), Renewal { granted: false, floor: 50 });
    assert_eq!(leases.renew(A, 50, true, s(0.2)), Renewal { granted: true, floor: 50 });
    leases.raise_floor(60);
    assert!(!leases.renew(A, 59, true, s(0.3)).granted);
    assert!(!leases.renew(B, 99, false, s(0.3)).granted, "it is no member");
}

#[test]
fn a_barrier_waits_for_every_holder_or_the_end_of_its_lease() {
    let mut leases = leases(1, 0, 0.0);
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
    let mut leases = leases(7, 5, 100.0);
    leases.renew(A, 5, true, s(100.1));
    assert_eq!(leases.barrier(5, &members(), s(103.1)), Barrier::TooEarly(s(103.15)));
    assert_eq!(leases.barrier(5, &members(), s(103.15)), Barrier::Passed);
    // A single node holds what it granted itself.
    assert_eq!(leases.barrier(5, &[A.node].into(), s(100.2)), Barrier::Passed);
    // One that is refused a lease may hold an old one as long as anybody may, and no longer for asking again.
    leases.raise_floor(6);
    leases.renew(A, 6, true, s(101.0));
    leases.renew(B, 4, true, s(101.0));
    leases.renew(B, 4, true, s(102.0));
    assert_eq!(leases.barrier(6, &members(), s(102.0)), Barrier::Waits(vec![(B, s(103.15))]));
}

#[test]
fn a_confirmation_of_an_earlier_term_counts_for_nothing() {
    let mut leases = leases(7, 50, 100.0);
    assert!(!leases.enter(6, 40, s(101.0)));
    assert!(!leases.renew(A, 45, true, s(101.0)).granted, "the floor stays");
    assert!(leases.enter(7, 60, s(102.0)) && leases.renew(A, 50, true, s(102.0)).granted);
}

#[test]
fn what_a_process_has_applied_is_not_its_successors() {
    let mut leases = leases(1, 0, 0.0);
    leases.renew(A, 10, true, s(10.0));
    leases.renew(B, 9, true, s(10.0));
    // It has died, and what comes back applies its log anew. A late answer to its predecessor changes nothing for it.
    leases.renew(B_AGAIN, 3, true, s(11.0));
    leases.applied(B, 10);
    assert_eq!(leases.barrier(10, &members(), s(11.0)), Barrier::Waits(vec![(B_AGAIN, s(14.15))]));
    // Nor is its predecessor's lease taken for shorter.
    leases.applied(B_AGAIN, 12);
    leases.renew(A, 12, true, s(11.0));
    assert_eq!(leases.barrier(12, &members(), s(11.0)), Barrier::Waits(vec![(B, s(13.15))]));
    // Once it has run out it is forgotten.
    leases.renew(B_AGAIN, 12, true, s(13.15));
    assert_eq!(leases.grants.keys().collect::<Vec<_>>(), [&A, &B_AGAIN]);
}

#[test]
fn a_node_that_leaves_is_granted_nothing_and_waited_out() {
    let mut leases = leases(1, 0, 0.0);
    let nodes = [B.node].into();
    assert_eq!(leases.may_leave(1, &nodes, s(0.0)), Leave::At(s(3.15)), "what it has of earlier leaders is not known");
    leases.renew(B, 5, true, s(10.0));
    leases.begin_departure(B.node);
    assert_eq!(leases.may_leave(1, &nodes, s(10.0)), Leave::At(s(13.15)));
    assert!(!leases.renew(B, 9, true, s(11.0)).granted && !leases.renew(B_AGAIN, 9, true, s(11.0)).granted);
    assert_eq!(leases.may_leave(1, &nodes, s(11.0)), Leave::At(s(13.15)), "a refusal makes it no longer");
    assert_eq!(leases.may_leave(1, &nodes, s(13.15)), Leave::Now);
    // Of another term it is not known: the leader may have been another one meanwhile.
    assert_eq!(leases.may_leave(3, &nodes, s(13.15)), Leave::OtherTerm);
    assert!(leases.enter(3, 9, s(14.0)));
    assert_eq!(leases.may_leave(1, &nodes, s(14.0)), Leave::OtherTerm);
    assert_eq!(leases.may_leave(3, &nodes, s(14.0)), Leave::At(s(17.15)));
    assert!(!leases.renew(B, 9, true, s(14.0)).granted, "it leaves still");
    // Two attempts at once, of which one comes to nothing.
    leases.begin_departure(B.node);
    leases.end_departure(B.node);
    assert!(!leases.renew(B, 9, true, s(15.0)).granted);
    leases.end_departure(B.node);
    assert!(leases.renew(B, 9, true, s(15.0)).granted);
    assert_eq!(leases.may_leave(3, &BTreeSet::new(), s(14.0)), Leave::Now, "nobody leaves");
}

#[test]
fn a_process_that_differs_is_never_granted_a_lease_again() {
    let mut leases = leases(1, 0, 0.0);
    leases.renew(B, 5, true, s(1.0));
    leases.condemn(B, Condemned::LogWentBack);
    assert!(!leases.renew(B, 6, true, s(1.1)).granted);
    assert!(leases.enter(5, 6, s(2.0)), "nor in a later term");
    assert!(!leases.renew(B, 6, true, s(2.1)).granted);
    assert_eq!(leases.condemned(B), Some(Condemned::LogWentBack));
    assert!(leases.renew(B_AGAIN, 6, true, s(2.1)).granted, "what comes after it is looked at anew");
}

#[test]
fn a_process_in_doubt_is_granted_nothing_until_it_is_known_to_be_right() {
    let mut leases = leases(1, 0, 0.0);
    assert!(leases.doubt(A) && !leases.doubt(A));
    assert!(!leases.renew(A, 5, true, s(1.0)).granted);
    leases.trust(A);
    assert!(leases.renew(A, 5, true, s(1.0)).granted);
}
