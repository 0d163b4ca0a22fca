//! The promises of [`storage::Engine`], each a function over any engine. Checkpoints are sprinkled in between: an
//! engine without a disk answers its newest view.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use storage::{Bytes, Engine, Error, KeyRange, Read, Row, Transaction, View};

fn bytes(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn row(key: &str, value: &str) -> Row {
    (bytes(key), bytes(value))
}

fn range(start: &str, end: Option<&str>) -> KeyRange {
    KeyRange { start: bytes(start), end: end.map(bytes) }
}

fn rows(read: &impl Read, range: KeyRange) -> Vec<Row> {
    read.scan(range).collect::<Result<_, _>>().unwrap()
}

fn all(read: &impl Read) -> Vec<Row> {
    rows(read, range("", None))
}

fn put_all(engine: &impl Engine, rows: &[(&str, &str)]) {
    let mut transaction = engine.begin();
    for (key, value) in rows {
        transaction.put(&bytes(key), &bytes(value));
    }
    transaction.commit().unwrap();
}

pub(crate) fn a_commit_is_seen_whole_and_a_dropped_transaction_not_at_all(engine: impl Engine) {
    let mut transaction = engine.begin();
    transaction.put(b"a", b"1");
    transaction.put(b"b", b"2");
    assert_eq!(all(&engine.view()), []);
    transaction.commit().unwrap();
    assert_eq!(all(&engine.view()), [row("a", "1"), row("b", "2")]);
    let mut dropped = engine.begin();
    dropped.delete(b"a");
    drop(dropped);
    assert_eq!(all(&engine.checkpoint().unwrap()), [row("a", "1"), row("b", "2")]);
    assert_eq!(all(&engine.checkpointed()), [row("a", "1"), row("b", "2")]);
    assert_eq!(engine.dirty_bytes(), 0);
}

pub(crate) fn keys_from_an_offset_begin_behind_so_many(engine: impl Engine) {
    let key = |number: usize| bytes(&format!("{number:05}"));
    let put = |numbers: &mut dyn Iterator<Item = usize>, value: &str| {
        let mut transaction = engine.begin();
        numbers.for_each(|number| transaction.put(&key(number), &bytes(value)));
        transaction.commit().unwrap();
    };
    put(&mut (0..3_000).step_by(2), "below");
    engine.checkpoint().unwrap();
    // Above what a checkpoint has written lie rows of their own, rows in place of others, and removals; and nothing at the end.
    put(&mut (100..1_000).step_by(5), "above");
    let mut transaction = engine.begin();
    (500..1_500).step_by(3).for_each(|number| transaction.delete(&key(number)));
    transaction.commit().unwrap();
    let view = engine.view();
    let all: Vec<_> = all(&view).into_iter().map(|(key, _)| key).collect();
    for offset in (0..all.len() + 3).step_by(7).chain([1, all.len() - 1, all.len(), usize::MAX]) {
        let found = view.keys(range("", None), offset as u64).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(found, all.get(offset..).unwrap_or_default(), "from {offset}");
    }
    let inner = range("00300", Some("00700"));
    let some: Vec<_> = rows(&view, inner.clone()).into_iter().map(|(key, _)| key).collect();
    for offset in 0..some.len() + 2 {
        let found = view.keys(inner.clone(), offset as u64).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(found, some.get(offset..).unwrap_or_default(), "from {offset} of the inner range");
    }
    assert_eq!(view.keys(range("b", Some("a")), 1).count(), 0);
}

pub(crate) fn a_transaction_reads_its_own_writes(engine: impl Engine) {
    put_all(&engine, &[("a", "1"), ("b", "2"), ("c", "3")]);
    engine.checkpoint().unwrap();
    let mut transaction = engine.begin();
    transaction.put(b"b", b"two");
    transaction.delete(b"c");
    transaction.delete(b"absent");
    assert_eq!(transaction.get(b"b").unwrap(), Some(bytes("two")));
    assert_eq!(transaction.get(b"c").unwrap(), None);
    assert_eq!(all(&transaction), [row("a", "1"), row("b", "two")]);
    assert_eq!(engine.view().get(b"c").unwrap(), Some(bytes("3")));
}

pub(crate) fn a_rollback_undoes_to_the_savepoint_and_no_further(engine: impl Engine) {
    put_all(&engine, &[("a", "1")]);
    engine.checkpoint().unwrap();
    let mut transaction = engine.begin();
    transaction.put(b"b", b"2");
    let outer = transaction.savepoint();
    transaction.delete(b"a");
    let inner = transaction.savepoint();
    transaction.put(b"a", b"again");
    transaction.rollback(inner);
    assert_eq!(all(&transaction), [row("b", "2")]);
    transaction.rollback(outer);
    transaction.put(b"c", b"3");
    transaction.commit().unwrap();
    assert_eq!(all(&engine.view()), [row("a", "1"), row("b", "2"), row("c", "3")]);
}

pub(crate) fn scans_are_ordered_and_bounded(engine: impl Engine) {
    put_all(&engine, &[("a", "1"), ("ab", "2"), ("abc", "3"), ("b", "4")]);
    engine.checkpoint().unwrap();
    put_all(&engine, &[("aa", "5"), ("ab", "6")]);
    let view = engine.view();
    assert_eq!(rows(&view, range("ab", Some("b"))), [row("ab", "6"), row("abc", "3")]);
    assert_eq!(rows(&view, KeyRange::prefix(b"ab")), [row("ab", "6"), row("abc", "3")]);
    assert_eq!(rows(&view, KeyRange::prefix_after(b"a", b"ab")), [row("abc", "3")]);
    assert_eq!(rows(&view, range("abc", None)), [row("abc", "3"), row("b", "4")]);
    assert_eq!(rows(&view, range("b", Some("b"))), []);
    assert_eq!(rows(&view, range("b", Some("a"))), []);
}

pub(crate) fn a_view_never_changes(engine: impl Engine) {
    let mut views = Vec::new();
    for round in 0..6 {
        put_all(&engine, &[("same", &round.to_string()), (&format!("own-{round}"), "")]);
        views.push((round, engine.view()));
        if round % 2 == 0 {
            views.push((round, engine.checkpoint().unwrap()));
        }
    }
    for (round, view) in views {
        let mut expected: Vec<Row> = (0..=round).map(|round| row(&format!("own-{round}"), "")).collect();
        expected.push(row("same", &round.to_string()));
        assert_eq!(all(&view), expected);
    }
}

pub(crate) fn replacing_shows_the_new_rows_alone(engine: impl Engine) {
    put_all(&engine, &[("a", "1"), ("b", "2")]);
    engine.checkpoint().unwrap();
    put_all(&engine, &[("c", "3")]);
    let before = engine.view();
    engine.replace([row("b", "new"), row("d", "4")].into_iter().map(Ok::<_, Error>)).unwrap();
    assert_eq!(all(&engine.view()), [row("b", "new"), row("d", "4")]);
    assert_eq!(all(&engine.checkpointed()), [row("b", "new"), row("d", "4")]);
    assert_eq!(all(&before), [row("a", "1"), row("b", "2"), row("c", "3")]);
    put_all(&engine, &[("e", "5")]);
    assert_eq!(all(&engine.checkpoint().unwrap()), [row("b", "new"), row("d", "4"), row("e", "5")]);
}

/// What a caller of `replace` may put in place of a row.
#[derive(Debug)]
enum Failure {
    Source,
    Engine(#[allow(dead_code)] Error), // its Debug output says what a failed assertion met
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

pub(crate) fn a_failed_replacement_changes_nothing(engine: impl Engine) {
    put_all(&engine, &[("a", "1")]);
    let result = engine.replace([Ok(row("b", "2")), Err(Failure::Source)].into_iter());
    assert!(matches!(result, Err(Failure::Source)), "{result:?}");
    assert_eq!(all(&engine.view()), [row("a", "1")]);
    assert_eq!(all(&engine.checkpoint().unwrap()), [row("a", "1")]);
}

pub(crate) fn keys_and_values_are_any_bytes(engine: impl Engine) {
    let long = vec![7; 70_000];
    let rows = [
        (Bytes::from([]), Bytes::from([])),
        (Bytes::from([0]), Bytes::from([0, 0])),
        (Bytes::from(long.as_slice()), Bytes::from(vec![9; 3 << 20])),
        (Bytes::from([255, 255]), Bytes::from([255])),
    ];
    let mut transaction = engine.begin();
    for (key, value) in &rows {
        transaction.put(key, value);
    }
    transaction.commit().unwrap();
    assert_eq!(all(&engine.view()), rows);
    let view = engine.checkpoint().unwrap();
    assert_eq!(all(&view), rows);
    for (key, value) in &rows {
        assert_eq!(view.get(key).unwrap().as_ref(), Some(value));
    }
    assert!(KeyRange::prefix(&[255, 255]).end.is_none());
}

/// Every transaction writes the same number into two rows far apart; every view must show them equal, and the numbers
/// of one reader must never fall, whatever checkpoints do meanwhile.
pub(crate) fn readers_see_whole_transactions_only(engine: impl Engine) {
    const ROUNDS: u64 = 3000;
    put_all(&engine, &[("a", "\0\0\0\0\0\0\0\0"), ("z", "\0\0\0\0\0\0\0\0")]);
    let done = AtomicBool::new(false);
    let read = || {
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let view = engine.view();
            let first = view.get(b"a").unwrap().unwrap();
            assert_eq!(view.get(b"z").unwrap().unwrap(), first);
            let scanned = all(&view);
            assert_eq!((&scanned[0].1, &scanned[1].1), (&first, &first));
            let number = u64::from_be_bytes(first[..].try_into().unwrap());
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
    };
    thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let durable = engine.checkpoint().unwrap();
                assert_eq!(durable.get(b"a").unwrap(), durable.get(b"z").unwrap());
            }
        });
        for round in 1..=ROUNDS {
            let mut transaction = engine.begin();
            transaction.put(b"a", &round.to_be_bytes());
            transaction.put(b"z", &round.to_be_bytes());
            transaction.commit().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(*engine.view().get(b"a").unwrap().unwrap(), ROUNDS.to_be_bytes());
}
