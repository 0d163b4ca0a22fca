//! The disk engine on disks that are full, that fail, and that hold something else.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, io::ErrorKind, path::Path, sync::Arc};

use storage::{
    Bytes, DiskEngine, Engine, Error, KeyRange, Read, Transaction,
    disk::Options,
    fs::{Disk, UNSYNCED_BYTES_MAX, faulty::FaultyDisk},
};

const BLOCK_BYTES: u64 = 4096;

fn open(disk: &FaultyDisk) -> Result<DiskEngine, Error> {
    DiskEngine::open(Arc::new(disk.clone()), Path::new("/store"), Options { cache_bytes: 1 << 20 })
}

fn key(number: u32) -> Bytes {
    number.to_be_bytes().as_slice().into()
}

/// Writes `value_bytes` bytes to each key, all telling the `round`.
fn put(engine: &DiskEngine, keys: std::ops::Range<u32>, round: u8, value_bytes: usize) {
    let mut transaction = engine.begin();
    for number in keys {
        transaction.put(&key(number), &vec![round; value_bytes]);
    }
    transaction.commit().unwrap();
}

fn assert_round(read: &impl Read, keys: std::ops::Range<u32>, round: u8) {
    for number in keys.clone() {
        assert_eq!(read.get(&key(number)).unwrap().unwrap()[0], round);
    }
    let found = read.scan(KeyRange { start: key(keys.start), end: Some(key(keys.end)) }).map(Result::unwrap);
    assert_eq!(found.filter(|(_, value)| value[0] == round).count(), keys.len());
}

/// Gives the disk one block more at a time until a checkpoint succeeds. Answers how often it was refused.
fn checkpoint_as_space_comes_back(disk: &FaultyDisk, engine: &DiskEngine, keys: u32, round: u8) -> u32 {
    let durable = engine.checkpointed();
    let dirty_bytes = engine.dirty_bytes();
    let mut refusals = 0;
    let mut capacity = disk.used_bytes();
    loop {
        disk.set_capacity(Some(capacity));
        match engine.checkpoint() {
            Ok(view) => {
                assert_round(&view, 0..keys, round);
                return refusals;
            }
            Err(error) => assert!(matches!(error, Error::DiskFull { .. }), "at {capacity} bytes: {error}"),
        }
        refusals += 1;
        capacity += BLOCK_BYTES;
        assert_eq!(engine.dirty_bytes(), dirty_bytes);
        // All reads at every capacity would take minutes: one of each layer does.
        assert_eq!(engine.view().get(&key(keys - 1)).unwrap().unwrap()[0], round);
        assert_eq!(durable.get(&key(0)).unwrap().unwrap()[0], round - 1);
    }
}

#[test]
fn a_checkpoint_on_a_full_disk_is_refused_until_there_is_room() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..100, 1, 10);
    engine.checkpoint().unwrap();
    let mut keys = 100;
    for round in 2..5 {
        // From the first growth to several in one transaction.
        keys *= 4;
        put(&engine, 0..keys, round, 100);
        checkpoint_as_space_comes_back(&disk, &engine, keys, round);
        assert_round(&engine.view(), 0..keys, round);
    }
    disk.crash();
    drop(engine);
    assert_round(&open(&disk).unwrap().view(), 0..keys, 4);
}

#[test]
fn a_full_disk_refuses_even_with_a_cache_too_small_for_the_checkpoint() {
    let disk = FaultyDisk::new();
    let open = || DiskEngine::open(Arc::new(disk.clone()), Path::new("/store"), Options { cache_bytes: 0 }).unwrap();
    let engine = open();
    put(&engine, 0..10, 1, 10);
    engine.checkpoint().unwrap();
    put(&engine, 0..40, 2, 100_000);
    let refusals = checkpoint_as_space_comes_back(&disk, &engine, 40, 2);
    assert!(refusals > 0);
    drop(engine);
    assert_round(&open().view(), 0..40, 2);
}

#[test]
fn what_is_written_after_a_refusal_lies_above_what_was_frozen() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..3, 1, 10);
    engine.checkpoint().unwrap();
    put(&engine, 0..3000, 2, 1000);
    disk.set_capacity(Some(disk.used_bytes()));
    assert!(matches!(engine.checkpoint(), Err(Error::DiskFull { .. })));
    put(&engine, 1..2, 3, 10);
    let mut transaction = engine.begin();
    transaction.delete(&key(2));
    transaction.commit().unwrap();
    assert!(matches!(engine.checkpoint(), Err(Error::DiskFull { .. })));
    disk.set_capacity(None);
    let view = engine.checkpoint().unwrap();
    assert_round(&view, 0..1, 2);
    assert_round(&view, 1..2, 3);
    assert_eq!(view.get(&key(2)).unwrap(), None);
    assert_round(&view, 3..3000, 2);
}

#[test]
fn a_full_disk_keeps_nobody_from_starting_again() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..3000, 1, 100);
    engine.checkpoint().unwrap();
    disk.set_capacity(Some(0));
    disk.crash();
    drop(engine);
    let crashed = open(&disk).unwrap();
    assert_round(&crashed.view(), 0..3000, 1);
    put(&crashed, 0..3000, 2, 5000);
    assert!(matches!(crashed.checkpoint(), Err(Error::DiskFull { .. })));
    drop(crashed);
    let closed = open(&disk).unwrap();
    assert_round(&closed.view(), 0..3000, 1);
}

#[test]
fn opening_and_replacing_on_a_full_disk_are_refused_and_leave_no_trace() {
    let disk = FaultyDisk::new();
    disk.set_capacity(Some(0));
    assert!(matches!(open(&disk), Err(Error::DiskFull { .. })));
    disk.set_capacity(None);
    let engine = open(&disk).unwrap();
    put(&engine, 0..10, 1, 10);
    engine.checkpoint().unwrap();
    let used = disk.used_bytes();
    let rows = || (0..5000).map(|number| Ok::<_, Error>((key(number), vec![2; 500].into())));
    let mut refusals = 0;
    for capacity in (used..).step_by(64 * BLOCK_BYTES as usize) {
        disk.set_capacity(Some(capacity));
        match engine.replace(rows()) {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::DiskFull { .. }), "{error}"),
        }
        refusals += 1;
        assert_eq!(disk.used_bytes(), used);
        assert_eq!(disk.list(Path::new("/store")).unwrap(), ["floor.redb"]);
        assert_round(&engine.view(), 0..10, 1);
    }
    assert!(refusals > 10);
    assert_round(&engine.view(), 0..5000, 2);
}

#[test]
fn a_failed_operation_stops_the_engine_and_the_last_checkpoint_is_found_again() {
    let mut failures = 0;
    for at in 0.. {
        let disk = FaultyDisk::new();
        let engine = open(&disk).unwrap();
        put(&engine, 0..50, 1, 100);
        engine.checkpoint().unwrap();
        put(&engine, 0..50, 2, 100);
        disk.fail_at(disk.operations() + at, ErrorKind::Other);
        let result = engine.checkpoint();
        let survived = result.is_ok();
        if let Err(error) = result {
            assert!(matches!(error, Error::Io { .. }), "operation {at}: {error}");
            failures += 1;
            assert!(engine.checkpoint().is_err(), "operation {at}: an engine that failed goes on");
        }
        disk.crash();
        drop(engine);
        let found = open(&disk).unwrap().view().get(&key(0)).unwrap().unwrap()[0];
        assert_round(&open(&disk).unwrap().view(), 0..50, found);
        if survived {
            assert_eq!(found, 2);
            break;
        }
    }
    assert!(failures > 5);
}

#[test]
fn a_file_that_is_not_ours_is_refused_by_name() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let path = Path::new("/store/floor.redb");
    for content in [&b""[..], b"short", &[0; 100_000], &[255; 100_000]] {
        disk.create(path).unwrap().write_all_at(content, 0).unwrap();
        match open(&disk) {
            Err(Error::Corrupt { path, .. }) => assert_eq!(path, "/store/floor.redb"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damage_never_panics() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..2000, 1, 100);
    engine.checkpoint().unwrap();
    let written: BTreeSet<_> = engine.view().scan(KeyRange::prefix(b"")).map(Result::unwrap).collect();
    drop(engine);
    let path = Path::new("/store/floor.redb");
    let file = disk.open(path).unwrap();
    let mut whole = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut whole, 0).unwrap();
    let mut noticed = 0;
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..][..4096].iter_mut().for_each(|byte| *byte ^= 0x55);
        disk.create(path).unwrap().write_all_at(&damaged, 0).unwrap();
        let read =
            open(&disk).and_then(|engine| engine.view().scan(KeyRange::prefix(b"")).collect::<Result<Vec<_>, _>>());
        match read {
            Ok(rows) => assert!(rows.iter().all(|row| written.contains(row)), "page {page}: a wrong row was read"),
            Err(Error::Corrupt { .. }) => noticed += 1,
            Err(other) => panic!("page {page}: {other}"),
        }
    }
    assert!(noticed > 10, "{noticed}");
}

#[test]
fn a_value_whose_bytes_went_bad_is_never_served() {
    const MARK: &[u8] = b"the bytes of this value are looked for in the file";
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    // So many rows that the value's page is not the root, which an open table holds.
    put(&engine, 0..2000, 1, 100);
    let mut transaction = engine.begin();
    transaction.put(b"key", MARK);
    transaction.commit().unwrap();
    engine.checkpoint().unwrap();
    drop(engine);
    // It goes bad while the store is open, and has not been read.
    let engine = open(&disk).unwrap();
    let file = disk.open(Path::new("/store/floor.redb")).unwrap();
    let mut whole = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut whole, 0).unwrap();
    let places: Vec<_> = whole.windows(MARK.len()).enumerate().filter(|(_, found)| *found == MARK).collect();
    assert!(!places.is_empty());
    for (place, _) in places {
        file.write_all_at(b"T", place as u64).unwrap();
    }
    assert!(matches!(engine.view().get(b"key"), Err(Error::Corrupt { .. })));
    drop(engine);
    // The next start finds it before anybody asks.
    assert!(matches!(open(&disk), Err(Error::Corrupt { .. })));
}

#[test]
fn a_truncated_file_is_refused() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..2000, 1, 100);
    engine.checkpoint().unwrap();
    drop(engine);
    let file = disk.open(Path::new("/store/floor.redb")).unwrap();
    let len = file.len().unwrap();
    for cut in [1, 4096, len / 2, len - 1] {
        file.set_len(len - cut).unwrap();
        assert!(matches!(open(&disk), Err(Error::Corrupt { .. })), "cut by {cut}");
    }
}

#[test]
fn a_store_larger_than_its_cache_works() {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    for round in 1..4 {
        put(&engine, 0..20_000, round, 200);
        engine.checkpoint().unwrap();
    }
    assert!(disk.used_bytes() > 4 << 20);
    assert_round(&engine.view(), 0..20_000, 3);
    drop(engine);
    assert_round(&open(&disk).unwrap().view(), 0..20_000, 3);
}

/// What a log beside it writes would wait for all of it.
#[test]
fn a_checkpoint_syncs_what_it_writes_bit_by_bit() {
    const VALUE_BYTES: usize = 1000;
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    put(&engine, 0..20_000, 1, VALUE_BYTES);
    engine.checkpoint().unwrap();
    put(&engine, 0..20_000, 2, VALUE_BYTES);
    engine.checkpoint().unwrap();
    assert_eq!(disk.unsynced_bytes_most(), UNSYNCED_BYTES_MAX);
}
