//! The checker of linearizability on histories whose verdict is known, and beside two others: a search that tries every
//! order, and the tester of `stateright`.

#![allow(clippy::unwrap_used)]

use insidb_oracle::{Answer, Content, Fault, Finding, History, Operation, Outcome, Request, Store};
use proptest::prelude::*;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

fn operation(store: Store, called_ns: u64, request: Request, outcome: Outcome) -> Operation {
    Operation { store, key: "k".to_owned(), request, called_ns, outcome }
}

fn answered(called: u64, returned_ns: u64, request: Request, answer: Answer) -> Operation {
    operation(Store::Values, called, request, Outcome::Known { returned_ns, answer, generation: None })
}

fn unanswered(called: u64, request: Request) -> Operation {
    operation(Store::Values, called, request, Outcome::Unknown)
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

/// With none as `old`, a setnx.
fn swap(called: u64, returned: u64, old: Content, new: i64, done: bool) -> Operation {
    let request = old.map_or(Request::SetNx(new), |old| Request::Cas { old, new });
    answered(called, returned, request, Answer::Met(done))
}

fn delete(called: u64, returned: u64) -> Operation {
    answered(called, returned, Request::Delete, Answer::Done)
}

fn check(operations: &[Operation]) -> Result<(), Fault> {
    let mut history = History::default();
    operations.iter().for_each(|operation| history.push(operation.clone()));
    history.check()
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
        Err(Fault { finding: Finding::NotLinearizable { .. }, .. }) => {}
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
    // To add nothing makes the key that the deletion beside it took away.
    let nothing = |called, returned| answered(called, returned, Request::Bump(0), Answer::Sum(0));
    is_good(&[nothing(0, 0), nothing(1, 3), delete(3, 8), get(12, 12, Some(0))]);
}

#[test]
fn what_has_no_answer_may_be_done_late_or_never() {
    is_good(&[unanswered(0, Request::Set(7)), get(1, 2, None), get(3, 4, None)]);
    is_good(&[unanswered(0, Request::Set(7)), get(1, 2, None), set(3, 4, 1), get(5, 6, Some(7))]);
    is_good(&[set(0, 1, 1), unanswered(2, Request::Bump(1)), bump(3, 4, 3), get(5, 6, Some(3))]);
    is_good(&[unanswered(0, Request::Set(1)), unanswered(0, Request::Cas { old: 1, new: 2 }), get(1, 2, Some(2))]);
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

/// What may have been done is used only where it must be, so that it is still there for a later answer.
#[test]
fn what_has_no_answer_is_not_wasted() {
    // The failed swap may be due to either write, and the read needs the second one, or the first.
    for seen in [7, 8] {
        is_good(&[
            set(0, 1, 1),
            unanswered(2, Request::Set(7)),
            unanswered(2, Request::Set(8)),
            swap(3, 4, Some(1), 2, false),
            set(5, 6, 3),
            get(7, 8, Some(seen)),
        ]);
    }
    // Chains: delete, setnx, two additions, a swap.
    let mut history = vec![
        set(0, 1, 1),
        unanswered(2, Request::Delete),
        unanswered(2, Request::SetNx(10)),
        unanswered(2, Request::Bump(2)),
        unanswered(2, Request::Bump(2)),
        unanswered(2, Request::Cas { old: 14, new: 50 }),
        get(3, 4, Some(50)),
    ];
    is_good(&history);
    history.push(get(5, 6, Some(52)));
    is_bad(&history);
    // Sums that are cut off at 0.
    is_good(&[set(0, 1, 5), unanswered(2, Request::Bump(-9)), bump(3, 4, 1)]);
    is_good(&[
        set(0, 1, 5),
        unanswered(2, Request::Set(3)),
        unanswered(2, Request::Bump(-1)),
        answered(3, 4, Request::Bump(-2), Answer::Sum(0)),
        get(5, 6, Some(0)),
    ]);
    is_bad(&[set(0, 1, 5), unanswered(2, Request::Bump(-1)), answered(3, 4, Request::Bump(-2), Answer::Sum(0))]);
    // One that changes nothing where it stands may have stood where it did.
    is_good(&[set(0, 1, 0), answered(2, 9, Request::Bump(-1), Answer::Sum(0)), bump(3, 4, 1), get(10, 11, Some(0))]);
}

#[test]
fn a_fault_names_the_first_answer_that_nothing_explains() {
    let mut history: Vec<Operation> = (0..200).map(|n| set(n * 10, n * 10 + 15, i64::try_from(n).unwrap())).collect();
    let stale = get(1_000, 1_004, Some(7));
    history.push(stale.clone());
    history.extend((300..400).map(|n| get(n * 10, n * 10 + 5, Some(199))));
    let fault = check(&history).unwrap_err();
    assert_eq!((fault.store, fault.key.as_str(), fault.generation), (Store::Values, "k", None));
    let Finding::NotLinearizable { first, explained, excerpt, .. } = &fault.finding else { panic!("{fault}") };
    assert_eq!(**first, stale);
    assert_eq!(*explained, 99);
    assert!(excerpt.len() <= 12 && excerpt.iter().all(|it| (850..=1_004).contains(&it.called_ns)), "{fault}");
}

/// An operation on the Cache, answered in this generation.
fn cached(called: u64, returned_ns: u64, request: Request, answer: Answer, generation: u64) -> Operation {
    let outcome = Outcome::Known { returned_ns, answer, generation: Some(generation) };
    operation(Store::Cache, called, request, outcome)
}

#[test]
fn each_generation_of_the_cache_is_a_register_of_its_own() {
    let set = |called, value, generation| cached(called, called + 5, Request::Set(value), Answer::Done, generation);
    let get =
        |called, content, generation| cached(called, called + 5, Request::Get, Answer::Content(content), generation);
    is_good(&[set(0, 1, 1), get(10, Some(1), 1), get(20, None, 2)]);
    is_bad(&[set(0, 1, 1), get(10, None, 1)]);
    is_bad(&[set(0, 1, 1), get(10, Some(1), 2)]);
    // A late answer of the older one is an answer to what was called before.
    is_good(&[set(0, 1, 1), get(10, None, 2), cached(11, 40, Request::Get, Answer::Content(Some(1)), 1)]);
    let fault = check(&[set(0, 1, 1), get(10, None, 2), get(16, Some(1), 1)]).unwrap_err();
    assert!(matches!(fault.finding, Finding::OlderGeneration { newest: 2, .. }), "{fault}");
    // What has no answer may belong to the generation that runs, or to a later one; to an older one it may not.
    let unknown = |called| operation(Store::Cache, called, Request::Set(9), Outcome::Unknown);
    is_good(&[get(0, None, 1), unknown(8), get(20, None, 2), get(30, Some(9), 2)]);
    is_good(&[unknown(8), get(20, Some(9), 1), get(30, None, 2)]);
    is_bad(&[get(0, None, 2), unknown(8), cached(1, 30, Request::Get, Answer::Content(Some(9)), 1)]);
    let fault =
        check(&[operation(Store::Cache, 0, Request::Get, answered(0, 1, Request::Get, Answer::Content(None)).outcome)]);
    assert!(matches!(fault.unwrap_err().finding, Finding::StrayGeneration { .. }));
}

#[test]
fn what_is_written_as_lines_is_read_again() {
    let history = [
        get(0, 1, None),
        get(0, 1, Some(-3)),
        set(2, 3, i64::MAX),
        swap(4, 5, Some(1), 2, true),
        swap(4, 5, None, 2, false),
        delete(6, 7),
        bump(8, 9, 1),
        unanswered(10, Request::Bump(-4)),
        operation(Store::Cache, 11, Request::Delete, Outcome::Refused),
        cached(12, 13, Request::Get, Answer::Content(None), 4),
    ];
    let mut lines = Vec::new();
    history.iter().for_each(|operation| operation.write_line(&mut lines).unwrap());
    let read = History::read(lines.as_slice()).unwrap();
    assert_eq!(read.operations(), history);
    // The format, as other programs see it; what a line says besides is passed over.
    let line = r#"{"store":"cache","key":"k","request":{"cas":{"old":1,"new":2}},"called_ns":5,"outcome":{"known":{"returned_ns":9,"answer":{"met":true},"generation":3}},"node":1}"#;
    let read = History::read(line.as_bytes()).unwrap();
    assert_eq!(read.operations(), [cached(5, 9, Request::Cas { old: 1, new: 2 }, Answer::Met(true), 3)]);
    let error = History::read(format!("{line}\n{{}}\n").as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("line 2 is no operation"), "{error}");
}

/// Clients that do one thing after another on one key, and a fault now and then that leaves outcomes unknown: thousands of
/// operations and hundreds of unknown ones are decided.
#[test]
fn thousands_of_operations_with_hundreds_of_unknown_outcomes_are_decided() {
    for (seed, clients, amounts) in [(1, 8, 1), (2, 8, 1), (3, 6, 2), (4, 6, 2)] {
        let mut history = simulated(seed, 6_000, clients, amounts);
        let unknown = history.iter().filter(|it| it.outcome == Outcome::Unknown).count();
        assert!(unknown > 400, "{unknown}");
        is_good(&history);
        // A read of what was overwritten long before.
        let at = history[3_000].called_ns;
        history.push(get(at, at + 1, Some(1_000_001)));
        is_bad(&history);
    }
}

/// A history that happened: `clients` at a time, each operation taking effect at one moment between call and return. In
/// every other twentieth of it, a quarter of the outcomes are unknown; of these, half take effect, up to long after.
fn simulated(seed: u64, operations: usize, clients: u64, amounts: u64) -> Vec<Operation> {
    let mut state = seed;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    // When it takes effect, its number, call, return, and whether it is answered.
    let mut drawn = Vec::new();
    let mut free: Vec<u64> = (0..clients).collect();
    for n in 0..operations {
        let client = usize::try_from(below(clients)).unwrap();
        let called = free[client] + 1 + below(20);
        let returned = called + 20 + below(200);
        free[client] = returned;
        let is_faulty = n / (operations / 20) % 2 == 1;
        let is_answered = !is_faulty || below(4) != 0;
        let effect = match (is_answered, below(2)) {
            (true, _) => Some(called + below(returned - called + 1)),
            (false, 0) => Some(called + below(4_000)),
            (false, _) => None,
        };
        drawn.push((effect, n, called, returned, is_answered));
    }
    drawn.sort_unstable();
    let mut content = None;
    let mut history = Vec::new();
    for (effect, n, called, returned, is_answered) in drawn {
        let new = i64::try_from(n).unwrap() * 1_000_000;
        let old = content.unwrap_or(1);
        let request = match below(20) {
            0..=7 => Request::Get,
            8..=10 => Request::Set(new),
            11 => Request::Delete,
            12..=16 => Request::Bump(1 + i64::try_from(below(amounts)).unwrap()),
            17 => Request::SetNx(new),
            _ => Request::Cas { old, new },
        };
        let (next, answer) = request.apply(content);
        if effect.is_some() {
            content = next;
        }
        history.push(if is_answered {
            answered(called, returned, request, answer)
        } else {
            unanswered(called, request)
        });
    }
    history.sort_by_key(|it| it.called_ns);
    history
}

/// A register, as `stateright` takes one.
#[derive(Clone, Debug)]
struct Register(Content);

impl SequentialSpec for Register {
    type Op = Request;
    type Ret = Answer;

    fn invoke(&mut self, request: &Request) -> Answer {
        // Said anew, and not by `Request::apply`, so that a mistake there is found.
        let Self(content) = self;
        match *request {
            Request::Get => Answer::Content(*content),
            Request::Set(value) => {
                *content = Some(value);
                Answer::Done
            }
            Request::Delete => {
                *content = None;
                Answer::Done
            }
            Request::SetNx(value) => {
                let is_absent = content.is_none();
                content.get_or_insert(value);
                Answer::Met(is_absent)
            }
            Request::Cas { old, new } => {
                let is_equal = *content == Some(old);
                if is_equal {
                    *content = Some(new);
                }
                Answer::Met(is_equal)
            }
            Request::Bump(by) => {
                let sum = (content.unwrap_or_default() + by).max(0);
                *content = Some(sum);
                Answer::Sum(sum)
            }
        }
    }
}

/// What `stateright` says: each operation is a thread of its own, and one without an answer never returns.
fn is_linearizable_by_stateright(history: &[Operation]) -> bool {
    let mut events = Vec::new();
    for (n, operation) in history.iter().enumerate() {
        // A return at the moment of a call is beside it.
        events.push((operation.called_ns, 0, n));
        if let Outcome::Known { returned_ns, .. } = operation.outcome {
            events.push((returned_ns, 1, n));
        }
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register(None));
    for (_, kind, n) in events {
        match (kind, history[n].outcome) {
            (1, Outcome::Known { answer, .. }) => tester.on_return(n, answer).map(drop).unwrap(),
            _ => tester.on_invoke(n, history[n].request).map(drop).unwrap(),
        }
    }
    tester.is_consistent()
}

fn known(operation: &Operation) -> Option<(u64, Answer)> {
    match operation.outcome {
        Outcome::Known { returned_ns, answer, .. } => Some((returned_ns, answer)),
        Outcome::Unknown | Outcome::Refused => None,
    }
}

/// Tries every order of every choice of the unanswered operations.
fn is_linearizable_by_brute_force(history: &[Operation]) -> bool {
    fn go(history: &[Operation], done: u32, content: Content) -> bool {
        let is_open = |n: usize| done & (1 << n) == 0;
        if (0..history.len()).all(|n| !is_open(n) || known(&history[n]).is_none()) {
            return true;
        }
        (0..history.len()).filter(|n| is_open(*n)).any(|n| {
            let is_too_early = (0..history.len())
                .filter(|m| is_open(*m))
                .any(|m| known(&history[m]).is_some_and(|(at, _)| at < history[n].called_ns));
            let (next, expected) = history[n].request.apply(content);
            let fits = known(&history[n]).is_none_or(|(_, answer)| answer == expected);
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
        1 => value().prop_map(Request::SetNx),
        2 => (value(), value()).prop_map(|(old, new)| Request::Cas { old, new }),
        2 => (-1..3_i64).prop_map(Request::Bump),
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
        history.push(match is_answered {
            true => answered(*called, called + length, *request, answer),
            false => unanswered(*called, *request),
        });
    }
    history
}

fn falsified(answer: Answer, by: i64) -> Answer {
    match answer {
        Answer::Content(_) => Answer::Content((by > 0).then_some(by)),
        Answer::Done => Answer::Done,
        Answer::Met(done) => Answer::Met(!done),
        Answer::Sum(sum) => Answer::Sum(sum + by),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_is_that_of_two_other_checkers(
        drawn in proptest::collection::vec(
            (requests(), 0..14_u64, 0..8_u64, any::<u64>(), prop::bool::weighted(0.6), any::<bool>()), 0..8),
        lie in proptest::option::of((any::<prop::sample::Index>(), 0..4_i64)),
    ) {
        let mut history = happened(&drawn);
        prop_assert!(check(&history).is_ok(), "{history:#?}");
        if let Some((which, by)) = lie.filter(|_| !history.is_empty()) {
            let n = which.index(history.len());
            if let Outcome::Known { answer, .. } = &mut history[n].outcome {
                *answer = falsified(*answer, by);
            }
        }
        let verdict = match check(&history).map_err(|fault| fault.finding) {
            Ok(()) => true,
            Err(Finding::NotLinearizable { .. }) => false,
            Err(other) => panic!("{other:?}: {history:#?}"),
        };
        prop_assert_eq!(verdict, is_linearizable_by_brute_force(&history), "every order: {:#?}", history);
        prop_assert_eq!(verdict, is_linearizable_by_stateright(&history), "stateright: {:#?}", history);
    }
}
