//! The checker of linearizability on histories whose verdict is known, and beside a search that tries every order.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::check::{Answer, Content, Fault, Operation, Request, check};
use proptest::prelude::*;

fn answered(called: u64, returned: u64, request: Request, answer: Answer) -> Operation {
    Operation { called, request, returned: Some((returned, answer)) }
}

fn unanswered(called: u64, request: Request) -> Operation {
    Operation { called, request, returned: None }
}

fn get(called: u64, returned: u64, content: Content) -> Operation {
    answered(called, returned, Request::Get, Answer::Content(content))
}

fn set(called: u64, returned: u64, value: i64) -> Operation {
    answered(called, returned, Request::Set(value), Answer::Done)
}

fn bump(called: u64, returned: u64, sum: i64) -> Operation {
    answered(called, returned, Request::Bump(1), Answer::Sum(sum))
}

fn swap(called: u64, returned: u64, old: Content, new: i64, done: bool) -> Operation {
    answered(called, returned, Request::Swap { old, new }, Answer::Swapped(done))
}

fn delete(called: u64, returned: u64) -> Operation {
    answered(called, returned, Request::Delete, Answer::Done)
}

#[track_caller]
fn is_good(history: &[Operation]) {
    if let Err(fault) = check(history) {
        panic!("{fault}");
    }
}

#[track_caller]
fn is_bad(history: &[Operation]) {
    match check(history) {
        Err(Fault::NotLinearizable { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_histories_are_accepted() {
    is_good(&[]);
    is_good(&[get(0, 1, None), set(2, 3, 7), get(4, 5, Some(7)), delete(6, 7), get(8, 9, None)]);
    // Two reads beside a write see it one after the other, in this order.
    is_good(&[set(0, 10, 7), get(1, 2, None), get(3, 4, Some(7))]);
    is_good(&[set(0, 9, 1), set(0, 9, 2), get(10, 11, Some(1)), get(12, 13, Some(1))]);
    is_good(&[bump(0, 5, 2), bump(0, 5, 1), bump(6, 7, 3), get(8, 9, Some(3))]);
    is_good(&[swap(0, 1, None, 5, true), swap(2, 3, None, 6, false), swap(4, 5, Some(5), 6, true), get(6, 7, Some(6))]);
}

#[test]
fn what_has_no_answer_may_be_done_late_or_never() {
    is_good(&[unanswered(0, Request::Set(7)), get(1, 2, None), get(3, 4, None)]);
    is_good(&[unanswered(0, Request::Set(7)), get(1, 2, None), set(3, 4, 1), get(5, 6, Some(7))]);
    is_good(&[set(0, 1, 1), unanswered(2, Request::Bump(1)), bump(3, 4, 3), get(5, 6, Some(3))]);
    is_good(&[
        unanswered(0, Request::Set(1)),
        unanswered(0, Request::Swap { old: Some(1), new: 2 }),
        get(1, 2, Some(2)),
    ]);
    // A swap that failed because of a write that nobody ever saw.
    is_good(&[set(0, 1, 1), unanswered(2, Request::Set(9)), swap(3, 4, Some(1), 2, false), set(5, 6, 3)]);
    // But not before its call, and not twice.
    is_bad(&[get(0, 1, Some(7)), unanswered(2, Request::Set(7))]);
    is_bad(&[unanswered(0, Request::Set(7)), get(1, 2, Some(7)), set(3, 4, 1), get(5, 6, Some(1)), get(7, 8, Some(7))]);
    is_bad(&[set(0, 1, 1), unanswered(2, Request::Bump(1)), bump(3, 4, 4)]);
}

#[test]
fn stale_reads_lost_writes_and_doubled_bumps_are_found() {
    // A stale read, from another node.
    is_bad(&[set(0, 1, 1), set(2, 3, 2), get(4, 5, Some(1))]);
    // New, then old again.
    is_bad(&[set(0, 1, 1), set(2, 20, 2), get(4, 5, Some(2)), get(6, 7, Some(1))]);
    // A lost write, a deletion that comes back, a read of nothing.
    is_bad(&[set(0, 1, 1), get(2, 3, None)]);
    is_bad(&[set(0, 1, 1), delete(2, 3), get(4, 5, Some(1))]);
    is_bad(&[get(0, 1, Some(3))]);
    // A doubled bump, a lost one, and two that saw the same.
    is_bad(&[bump(0, 1, 1), bump(2, 3, 3)]);
    is_bad(&[bump(0, 1, 1), bump(2, 3, 2), get(4, 5, Some(1))]);
    is_bad(&[bump(0, 9, 1), bump(0, 9, 1)]);
    // Two swaps from the same value.
    is_bad(&[set(0, 1, 1), swap(2, 9, Some(1), 2, true), swap(2, 9, Some(1), 3, true)]);
    // A swap that failed although the value was there.
    is_bad(&[set(0, 1, 1), swap(2, 3, Some(1), 2, false), get(4, 5, Some(1))]);
}

/// Many writers at a time with many outcomes unknown: decided, and quickly.
#[test]
fn long_histories_with_many_unknown_outcomes_are_decided() {
    let mut history = Vec::new();
    let mut content = None;
    for n in 0..400_u64 {
        let at = n * 10;
        let value = i64::try_from(n).unwrap() * 1_000;
        match n % 8 {
            // Every other unknown write is seen by the read that follows.
            0 => {
                history.push(unanswered(at, Request::Set(value)));
                content = if n % 16 == 0 { Some(value) } else { content };
            }
            1 | 4 => history.push(get(at, at + 25, content)),
            2 => {
                history.push(set(at, at + 9, value));
                content = Some(value);
            }
            3 | 5 => {
                let (new, _) = Request::Bump(1).apply(content);
                history.push(bump(at, at + 9, new.unwrap()));
                content = new;
            }
            6 => history.push(swap(at, at + 9, Some(-1), 1, false)),
            _ => history.push(unanswered(at, Request::Bump(1))),
        }
    }
    // The reads overlap what comes after them: their content is that of a moment within them.
    is_good(&history);
    history.push(get(5_000, 5_001, Some(-7)));
    is_bad(&history);
}

/// Tries every order of every choice of the unanswered operations.
fn is_linearizable_by_brute_force(history: &[Operation]) -> bool {
    fn go(history: &[Operation], done: u32, content: Content) -> bool {
        let is_open = |n: usize| done & (1 << n) == 0;
        if (0..history.len()).all(|n| !is_open(n) || history[n].returned.is_none()) {
            return true;
        }
        (0..history.len()).filter(|n| is_open(*n)).any(|n| {
            let is_too_early = (0..history.len())
                .filter(|m| is_open(*m))
                .any(|m| history[m].returned.is_some_and(|(at, _)| at < history[n].called));
            let (next, expected) = history[n].request.apply(content);
            let fits = history[n].returned.is_none_or(|(_, answer)| answer == expected);
            !is_too_early && fits && go(history, done | (1 << n), next)
        })
    }
    go(history, 0, None)
}

fn requests() -> impl Strategy<Value = Request> {
    let value = || 0..3_i64;
    prop_oneof![
        3 => Just(Request::Get),
        2 => value().prop_map(Request::Set),
        1 => Just(Request::Delete),
        2 => (proptest::option::of(value()), value()).prop_map(|(old, new)| Request::Swap { old, new }),
        2 => (1..3_i64).prop_map(Request::Bump),
    ]
}

/// An operation as it is drawn: its request, call, length, the place within it at which it takes effect, and whether
/// it is answered and, if not, whether it takes effect at all.
type Drawn = (Request, u64, u64, u64, bool, bool);

/// A history that happened, so that it is linearizable.
fn happened(drawn: &[Drawn]) -> Vec<Operation> {
    let mut order: Vec<&Drawn> = drawn.iter().collect();
    order.sort_by_key(|(_, called, length, part, ..)| called + part % (length + 1));
    let mut content = None;
    let mut history = Vec::new();
    for (request, called, length, _, is_answered, takes_effect) in order {
        let (next, answer) = request.apply(content);
        if *is_answered || *takes_effect {
            content = next;
        }
        let returned = is_answered.then_some((called + length, answer));
        history.push(Operation { called: *called, request: *request, returned });
    }
    history
}

fn falsified(answer: Answer, by: i64) -> Answer {
    match answer {
        Answer::Content(_) => Answer::Content((by > 0).then_some(by)),
        Answer::Done => Answer::Done,
        Answer::Swapped(done) => Answer::Swapped(!done),
        Answer::Sum(sum) => Answer::Sum(sum + by),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_is_that_of_a_search_through_all_orders(
        drawn in proptest::collection::vec(
            (requests(), 0..14_u64, 0..8_u64, any::<u64>(), prop::bool::weighted(0.7), any::<bool>()), 0..8),
        lie in proptest::option::of((any::<prop::sample::Index>(), 0..4_i64)),
    ) {
        let mut history = happened(&drawn);
        prop_assert!(check(&history).is_ok(), "{history:#?}");
        if let Some((which, by)) = lie.filter(|_| !history.is_empty()) {
            let n = which.index(history.len());
            history[n].returned = history[n].returned.map(|(at, answer)| (at, falsified(answer, by)));
        }
        let verdict = match check(&history) {
            Ok(()) => true,
            Err(Fault::NotLinearizable { .. }) => false,
            Err(Fault::TooHard) => panic!("too hard: {history:#?}"),
        };
        prop_assert_eq!(verdict, is_linearizable_by_brute_force(&history), "{:#?}", history);
    }
}
