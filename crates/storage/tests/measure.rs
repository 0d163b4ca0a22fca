//! What the disk engine costs with a million rows, on the disk of the machine:
//! `cargo test --release -p insidb-storage --test measure -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use storage::{Bytes, DiskEngine, Engine, KeyRange, Read, Transaction, disk::Options, fs::OsDisk};

const ROWS: u64 = 1_000_000;
const CACHE_BYTES: usize = 64 << 20;

fn key(number: u64) -> Bytes {
    // Spread over the whole key space, as keys of many scopes are.
    format!("{:020}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).as_bytes().into()
}

fn put(engine: &DiskEngine, numbers: impl Iterator<Item = u64>) -> Duration {
    let numbers: Vec<u64> = numbers.collect();
    let begun = Instant::now();
    for batch in numbers.chunks(500) {
        let mut transaction = engine.begin();
        for number in batch {
            transaction.put(&key(*number), &[b'v'; 100]);
        }
        transaction.commit().unwrap();
    }
    begun.elapsed()
}

fn gets_per_second(read: &impl Read) -> f64 {
    const GETS: u64 = 1_000_000;
    let keys: Vec<Bytes> = (0..GETS).map(|number| key(number.wrapping_mul(7919) % ROWS)).collect();
    let begun = Instant::now();
    for key in &keys {
        assert!(read.get(key).unwrap().is_some());
    }
    GETS as f64 / begun.elapsed().as_secs_f64()
}

fn scans_per_second(read: &impl Read) -> f64 {
    const SCANS: u64 = 20_000;
    let begun = Instant::now();
    for number in 0..SCANS {
        let range = KeyRange { start: key(number * 37), end: None };
        assert!(read.scan(range).take(100).all(|row| row.is_ok()));
    }
    SCANS as f64 / begun.elapsed().as_secs_f64()
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096 / (1 << 20)
}

fn open(dir: &Path, cache_bytes: usize) -> DiskEngine {
    DiskEngine::open(Arc::new(OsDisk), dir, Options { cache_bytes }).unwrap()
}

fn checkpoint(engine: &DiskEngine, what: &str) {
    let dirty = engine.dirty_bytes();
    let begun = Instant::now();
    engine.checkpoint().unwrap();
    println!("{what}: {:?} for {dirty} bytes of rows, {} MiB resident", begun.elapsed(), resident_mib());
}

#[test]
#[ignore = "a measurement, not a promise"]
fn a_million_rows() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), CACHE_BYTES);
    println!("empty: {} MiB resident", resident_mib());
    let elapsed = put(&engine, 0..ROWS);
    println!("put 1M rows in batches of 500: {elapsed:?}, {} MiB resident", resident_mib());
    println!(
        "memory part: {:.0} gets/s, {:.0} scans of 100 rows/s",
        gets_per_second(&engine.view()),
        scans_per_second(&engine.view())
    );
    checkpoint(&engine, "first checkpoint, 1M rows");
    for round in 0..3 {
        put(&engine, (round * 50_000..).step_by(19).take(50_000).map(|number| number % ROWS));
        checkpoint(&engine, "checkpoint of 50,000 rows spread over all");
    }
    println!("file: {} MiB", std::fs::metadata(dir.path().join("floor.redb")).unwrap().len() >> 20);
    let begun = Instant::now();
    std::mem::forget(engine); // never closed, as after SIGKILL
    drop(open(dir.path(), CACHE_BYTES));
    println!("opened after a crash and closed in {:?}", begun.elapsed());
    for cache_bytes in [CACHE_BYTES, 512 << 20] {
        let begun = Instant::now();
        let engine = open(dir.path(), cache_bytes);
        println!("opened in {:?}, cache {} MiB, {} MiB resident", begun.elapsed(), cache_bytes >> 20, resident_mib());
        gets_per_second(&engine.view());
        println!(
            "floor: {:.0} gets/s, {:.0} scans of 100 rows/s, {} MiB resident",
            gets_per_second(&engine.view()),
            scans_per_second(&engine.view()),
            resident_mib()
        );
    }
}
