//! How fast the disk log is, beside the disk itself. Run with
//! `cargo test --release -p insidb-consensus --test log_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod logs;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use consensus::log::{
    LocalLog as _,
    disk::{self, DiskLog, Setup},
};
use storage::fs::{Disk, OsDisk};

const RUN: Duration = Duration::from_secs(3);

/// Syncs a second of a bare loop over a file of zeros, `bytes` a write.
fn bare(dir: &std::path::Path, bytes: usize) -> f64 {
    let file = OsDisk.create(&dir.join("bare")).unwrap();
    let file_bytes = disk::SEGMENT_BYTES_DEFAULT;
    file.write_all_at(&vec![0; usize::try_from(file_bytes).unwrap()], 0).unwrap();
    file.sync_data().unwrap();
    let data = vec![7; bytes];
    let (began, mut syncs, mut offset) = (Instant::now(), 0_u32, 0);
    while began.elapsed() < RUN {
        file.write_all_at(&data, offset).unwrap();
        file.sync_data().unwrap();
        syncs += 1;
        offset = (offset + bytes as u64) % (file_bytes - bytes as u64);
    }
    f64::from(syncs) / began.elapsed().as_secs_f64()
}

/// Appends and syncs a second, with so many appends of one entry in flight.
async fn log(dir: &std::path::Path, round: usize, in_flight: usize) -> (f64, f64) {
    let counter = Arc::new(logs::Counter::default());
    let setup = Setup {
        observer: counter.clone(),
        segment_bytes: disk::SEGMENT_BYTES_DEFAULT,
        cache_bytes_max: disk::CACHE_BYTES_DEFAULT,
        ..logs::setup(OsDisk, &dir.join(format!("log-{round}-{in_flight}")))
    };
    let mut log = DiskLog::open(setup).unwrap();
    let mut waiting = VecDeque::new();
    let (began, mut index) = (Instant::now(), 0);
    while began.elapsed() < RUN {
        waiting.push_back(logs::start_append(&mut log, vec![logs::entry(1, index, 100)]).await.unwrap());
        index += 1;
        if waiting.len() == in_flight {
            waiting.pop_front().unwrap().await.unwrap().unwrap();
        }
        if index % 50_000 == 0 {
            openraft::storage::RaftLogStorage::purge(&mut log, logs::log_id(1, index - 10_000)).await.unwrap();
        }
    }
    for synced in waiting {
        synced.await.unwrap().unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    log.close().unwrap();
    (index as f64 / took, counter.0.load(Ordering::Relaxed) as f64 / took)
}

#[test]
#[ignore = "a measurement"]
fn appends_and_syncs_a_second() {
    // Beside the build: a temporary directory may be in memory, where a sync costs nothing.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for round in 1..=3 {
        println!("round {round}: bare fdatasync of zeros, 200 bytes: {:.0} syncs/s", bare(dir.path(), 200));
        for in_flight in [1, 8, 64, 512] {
            let (appends, syncs) = logs::runtime().block_on(log(dir.path(), round, in_flight));
            println!("round {round}: log, {in_flight} in flight: {appends:.0} appends/s, {syncs:.0} syncs/s");
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn the_time_that_a_tail_takes_at_the_start() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for value_bytes in [100, 1_000, 100_000] {
        let setup = || Setup {
            segment_bytes: disk::SEGMENT_BYTES_DEFAULT,
            ..logs::setup(OsDisk, &dir.path().join(format!("tail-{value_bytes}")))
        };
        let mut log = DiskLog::open(setup()).unwrap();
        let entries = disk::TAIL_BYTES_DEFAULT / (value_bytes + 70);
        logs::runtime().block_on(async {
            let mut index = 0;
            while index < entries {
                let batch = (index..entries.min(index + 64)).map(|index| logs::entry(1, index, value_bytes as usize));
                let batch: Vec<_> = batch.collect();
                index += batch.len() as u64;
                logs::append(&mut log, batch).await.unwrap();
            }
        });
        log.close().unwrap();
        let began = Instant::now();
        let log = DiskLog::open(setup()).unwrap();
        let opened = began.elapsed();
        let began = Instant::now();
        let start = log.tail_start(disk::TAIL_BYTES_DEFAULT);
        let walked = began.elapsed();
        println!(
            "{entries} entries of {value_bytes} bytes: opened in {opened:?}, tail from {start} found in {walked:?}"
        );
        log.close().unwrap();
    }
}
