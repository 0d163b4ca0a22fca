//! What the map in memory costs: memory an entry, and the time of a look-up, an overwrite and a scan.
//!
//! `cargo run --release -p insidb-storage --example tree` fills a [`MemoryEngine`] in random order and prints a line
//! for each size. Keys are as `state` makes them: 17 bytes of a tenant and a scope, then 20 of the entry; values have
//! 110 bytes, which is an entry of 64 bytes with its header. The memory is what the process has more than before, so
//! one size is measured before the next is begun, the smaller first. A scan takes all rows; a load scans all and makes
//! another map of them, as when a snapshot is installed.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use storage::{Bytes, Engine, KeyRange, MemoryEngine, Read, Result, Transaction};

const VALUE_BYTES: usize = 110;
/// Writes that are published together.
const WRITES: u64 = 20;
const OPERATIONS: u64 = 200_000;

fn main() -> Result<()> {
    println!("{:>9} {:>8} {:>8} {:>8} {:>8} {:>8}", "rows", "bytes", "ns get", "ns put", "ns scan", "ns load");
    for rows in [10_000, 1_000_000] {
        measure(rows)?;
    }
    Ok(())
}

fn measure(rows: u64) -> Result<()> {
    let before = resident_bytes();
    let engine = MemoryEngine::new();
    write(&engine, rows, |number| number)?;
    let bytes = (resident_bytes() - before) / rows;

    let view = engine.view();
    let get = each(OPERATIONS, || {
        for number in 0..OPERATIONS {
            black_box(view.get(&key(scatter(number) % rows))?);
        }
        Ok(())
    })?;
    drop(view); // else all that is written from here on would come on top
    let put = each(OPERATIONS, || write(&engine, OPERATIONS, |number| scatter(number) % rows))?;
    let scan = each(rows, || {
        for row in engine.view().scan(KeyRange::prefix(&[])) {
            black_box(row?);
        }
        Ok(())
    })?;
    let load = each(rows, || MemoryEngine::new().replace(engine.view().scan(KeyRange::prefix(&[]))))?;
    println!("{rows:>9} {bytes:>8} {get:>8} {put:>8} {scan:>8} {load:>8}");
    Ok(())
}

/// Sets `count` rows in transactions of [`WRITES`]; `choose` says which row is the next.
fn write(engine: &MemoryEngine, count: u64, choose: impl Fn(u64) -> u64) -> Result<()> {
    for first in (0..count).step_by(WRITES as usize) {
        let mut transaction = engine.begin();
        for number in first..count.min(first + WRITES) {
            transaction.put(&key(choose(number)), &[number as u8; VALUE_BYTES]);
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The key of a row. Rows that follow each other in number lie anywhere in the map.
fn key(number: u64) -> Bytes {
    format!("e:tenant:scope-1:{:020}", scatter(number)).into_bytes().into()
}

/// SplitMix64: every number becomes another one, without order.
fn scatter(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Nanoseconds of one of `count`. Making the keys and values is in it.
fn each(count: u64, run: impl FnOnce() -> Result<()>) -> Result<u128> {
    let begun = Instant::now();
    run()?;
    let took: Duration = begun.elapsed();
    Ok(took.as_nanos() / u128::from(count))
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|statm| {
        let mut fields = statm.split(' ');
        fields.nth(1)?.parse::<u64>().ok()
    });
    pages.expect("Linux says how many pages are resident") * 4096
}
