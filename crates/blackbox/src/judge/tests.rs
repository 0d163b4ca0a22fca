//! A run without a flaw, and each flaw that the judge is there for.

use super::*;
use crate::schedule::FaultKind;

const MS: u64 = 1_000_000;
/// The least value that somebody writes.
const STEP: i64 = 1_000_000;

fn operation(store: Store, key: &str, request: Request, called_ms: u64, answer: Option<Answer>) -> Operation {
    let generation = (store == Store::Cache).then_some(1);
    let returned_ns = called_ms * MS + 1;
    let outcome = answer.map_or(Outcome::Unknown, |answer| Outcome::Known { returned_ns, answer, generation });
    Operation { store, key: key.to_owned(), request, called_ns: called_ms * MS, outcome }
}

fn operations() -> Vec<Operation> {
    let values = |key: &str, request, at, answer| operation(Store::Values, key, request, at, Some(answer));
    let cache = |key: &str, request, at, answer| operation(Store::Cache, key, request, at, Some(answer));
    let holds = |value| Answer::Content(Some(value));
    vec![
        values("t/k/once/1", Request::SetNx(STEP), 1, Answer::Met(true)),
        values("t/k/sum", Request::Bump(1), 2, Answer::Sum(1)),
        operation(Store::Values, "t/k/sum", Request::Bump(1), 3, None),
        cache("t/k/0", Request::Set(2 * STEP), 4, Answer::Done),
        values("gone/k/0", Request::Set(3 * STEP), 5, Answer::Done),
        values("t/k/once/1", Request::Get, 101, holds(STEP)),
        values("t/k/sum", Request::Get, 102, holds(2)),
        cache("t/k/0", Request::Get, 103, holds(2 * STEP)),
    ]
}

fn weight(key: &str, value: i64) -> u64 {
    (key.len() + value::text(value).len()) as u64
}

fn usage() -> Bytes {
    let disk = weight("k/once/1", STEP) + weight("k/sum", 2);
    Bytes { disk, memory: weight("k/0", 2 * STEP) }
}

fn quotas_event(at_ms: u64, is_answered: bool, most: u64) -> Event {
    let quotas = Bytes { disk: most, memory: most };
    let returned_ns = is_answered.then_some(at_ms * MS + 1);
    Event::Quotas { tenant: "t".to_owned(), called_ns: at_ms * MS, returned_ns, quotas }
}

fn usage_event(at_ms: u64, used: u64) -> Event {
    let (called_ns, usage) = (at_ms * MS, Bytes { disk: used, memory: 0 });
    Event::Usage { tenant: "t".to_owned(), node: 0, called_ns, returned_ns: called_ns + 1, usage }
}

fn healed(cache: CacheFate, generation: u64) -> Event {
    Event::Healed { at_ns: 9 * MS, kind: FaultKind::Kill, after_ms: 1, cache, generation_before: 1, generation }
}

fn state(node: usize, applied: u64, hash: &str) -> Event {
    let (applied_index, hash) = (Some(applied), Some(hash.to_owned()));
    Event::State { node, group: "values".to_owned(), applied_index, hash }
}

fn listed(store: Store, keys: &[&str]) -> Event {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Event::Listed { tenant: "t".to_owned(), store, node: 0, keys }
}

fn events() -> Vec<Event> {
    let tenant = || "t".to_owned();
    vec![
        Event::Deleted { tenant: "gone".to_owned(), called_ns: 6 * MS, returned_ns: 7 * MS },
        healed(CacheFate::Kept, 1),
        quotas_event(10, true, 100),
        usage_event(11, 150),
        usage_event(12, 150),
        Event::Closing { at_ns: 100 * MS },
        listed(Store::Values, &["k/once/1", "k/sum"]),
        listed(Store::Cache, &["k/0"]),
        Event::ClosingUsage { tenant: tenant(), node: 0, usage: usage() },
        Event::DeletedAnswers { tenant: "gone".to_owned(), node: 0, code: "unauthorized".to_owned() },
        Event::Stored { node: 0, stored: usage() },
        state(0, 7, "a"),
        state(1, 7, "a"),
        Event::Ended { at_ns: 200 * MS },
    ]
}

fn verdict(operations: Vec<Operation>, events: &[Event]) -> Vec<String> {
    let mut history = History::default();
    operations.into_iter().for_each(|operation| history.push(operation));
    judge(&history, events)
}

/// What is wrong when these are there too, or in place of others.
fn with(operation: Option<Operation>, event: Option<Event>, instead_of: Option<Event>) -> Vec<String> {
    let (mut operations, mut events) = (operations(), events());
    operations.extend(operation);
    match instead_of {
        Some(other) => {
            let at = events.iter().position(|it| *it == other).unwrap();
            events.splice(at..=at, event);
        }
        None => events.splice(0..0, event).for_each(drop),
    }
    verdict(operations, &events)
}

#[track_caller]
fn is_found(check: &str, wrong: &[String]) {
    assert!(wrong.iter().any(|it| it.starts_with(check)), "{check}: {wrong:?}");
}

#[test]
fn a_run_without_a_flaw_passes() {
    assert_eq!(verdict(operations(), &events()), Vec::<String>::new());
}

#[test]
fn each_flaw_of_the_history_is_found() {
    let get =
        |store, key: &str, at, content| Some(operation(store, key, Request::Get, at, Some(Answer::Content(content))));
    is_found("linearizable", &with(get(Store::Cache, "t/k/0", 50, None), None, None));
    is_found("once", &with(get(Store::Values, "t/k/once/1", 50, None), None, None));
    is_found("sums", &with(get(Store::Values, "t/k/sum", 110, Some(3)), None, None));
    is_found("sums", &with(get(Store::Values, "t/k/sum", 110, None), None, None));
    is_found("deleted", &with(get(Store::Values, "gone/k/0", 8, Some(3 * STEP)), None, None));
    // What was called before may be answered after.
    let late = get(Store::Values, "gone/k/0", 6, Some(3 * STEP));
    assert_eq!(with(late, None, None), Vec::<String>::new());
}

#[test]
fn each_flaw_of_the_end_is_found() {
    let keys = listed(Store::Values, &["k/once/1", "k/sum"]);
    is_found("books", &with(None, Some(listed(Store::Values, &["k/once/1"])), Some(keys.clone())));
    is_found("books", &with(None, Some(listed(Store::Values, &["k/sum", "k/once/1"])), Some(keys.clone())));
    is_found("books", &with(None, Some(listed(Store::Values, &["k/once/1", "k/sum", "k/x"])), Some(keys)));
    let closing = |usage| Event::ClosingUsage { tenant: "t".to_owned(), node: 0, usage };
    let off = Bytes { disk: usage().disk + 1, ..usage() };
    is_found("books", &with(None, Some(closing(off)), Some(closing(usage()))));
    let stored = |stored| Event::Stored { node: 0, stored };
    is_found("stored", &with(None, Some(stored(off)), Some(stored(usage()))));
    is_found("states", &with(None, Some(state(1, 7, "b")), Some(state(1, 7, "a"))));
    is_found("states", &with(None, Some(state(1, 8, "a")), Some(state(1, 7, "a"))));
    let answers = |code: &str| Event::DeletedAnswers { tenant: "gone".to_owned(), node: 0, code: code.to_owned() };
    is_found("deleted", &with(None, Some(answers("served")), Some(answers("unauthorized"))));
    is_found("the run did not", &with(None, None, Some(Event::Ended { at_ns: 200 * MS })));
    is_found("at 3 ms: a flaw", &with(None, Some(Event::Wrong { at_ns: 3 * MS, what: "a flaw".to_owned() }), None));
}

#[test]
fn quotas_that_are_passed_are_found() {
    // Above the quota, it may fall and stay, and not grow.
    is_found("quotas", &with(None, Some(usage_event(12, 151)), Some(usage_event(12, 150))));
    let raised = [
        quotas_event(20, true, 100),
        usage_event(21, 90),
        quotas_event(22, false, 200),
        usage_event(23, 180),
        usage_event(24, 190),
    ];
    assert_eq!(quotas(&raised), Vec::<String>::new());
    let much = [quotas_event(22, false, 200), usage_event(23, 100), usage_event(24, 201)];
    assert_eq!(quotas(&much), Vec::<String>::new(), "no quota was ever acknowledged");
    let much = [quotas_event(20, true, 100), quotas_event(22, false, 200), usage_event(23, 100), usage_event(24, 201)];
    is_found("quotas", &quotas(&much));
    let long_after = 22 + 2 * UNDER_WAY_NS / MS;
    let late = [
        quotas_event(22, false, 200),
        quotas_event(long_after, true, 100),
        usage_event(long_after + 1, 90),
        usage_event(long_after + 2, 180),
    ];
    is_found("quotas", &quotas(&late));
}

#[test]
fn a_cache_that_is_lost_or_kept_wrongly_is_found() {
    for (fate, generation, is_right) in [
        (CacheFate::Kept, 1, true),
        (CacheFate::Kept, 2, false),
        (CacheFate::Lost, 1, false),
        (CacheFate::Lost, 3, true),
        (CacheFate::Either, 1, true),
        (CacheFate::Either, 2, true),
        (CacheFate::Either, 0, false),
    ] {
        assert_eq!(cache(&[healed(fate, generation)]).is_empty(), is_right, "{fate:?} {generation}");
    }
}

#[test]
fn a_tenants_keys_go_once_and_not_before_its_deletion_was_called() {
    let deleted = |called_ms: u64, returned_ms: u64| {
        let gone = |event: &Event| matches!(event, Event::Deleted { .. });
        let (called_ns, returned_ns) = (called_ms * MS, returned_ms * MS);
        let deletion = Event::Deleted { tenant: "gone".to_owned(), called_ns, returned_ns };
        events().into_iter().filter(|event| !gone(event)).chain([deletion]).collect::<Vec<_>>()
    };
    let get =
        |at_ms, content| operation(Store::Values, "gone/k/0", Request::Get, at_ms, Some(Answer::Content(content)));
    let verdict = |gets: &[Operation], events: &[Event]| verdict([operations(), gets.to_vec()].concat(), events);
    assert_eq!(verdict(&[get(7, None)], &deleted(6, 9)), [""; 0], "under way");
    let early = verdict(&[get(6, None)], &deleted(7, 9));
    assert!(early.iter().any(|wrong| wrong.starts_with("linearizable")), "{early:?}");
    let back = verdict(&[get(7, None), get(8, Some(3 * STEP))], &deleted(6, 9));
    assert!(back.iter().any(|wrong| wrong.starts_with("linearizable")), "{back:?}");
}
