//! How many segments a log keeps to use again.

#![allow(clippy::unwrap_used, missing_docs)]

mod logs;

use std::sync::Arc;

use consensus::log::{
    LocalLog as _,
    disk::{DiskLog, Setup},
};
use logs::eventually;
use openraft::storage::RaftLogStorage as _;
use storage::fs::{Disk as _, faulty::FaultyDisk};

/// Appends so many entries of 12,000 bytes from `index` on, five to a segment.
async fn append_many(log: &mut DiskLog, index: &mut u64, entries: u64) {
    for _ in 0..entries {
        logs::append(log, vec![logs::entry(1, *index, 12_000)]).await.unwrap();
        *index += 1;
    }
}

/// A file that is used again need not be filled with zeros first.
#[test]
fn a_purge_leaves_as_many_spares_as_it_brought_until_the_room_is_needed() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        // Never idle: it writes no mark before its next batch.
        let env = Arc::new(logs::Patient::default());
        let mut log = DiskLog::open(Setup { env, ..logs::setup(disk.clone(), &logs::dir()) }).unwrap();
        let spares = || disk.list(&logs::dir()).unwrap().iter().filter(|name| name.ends_with(".spare")).count();
        let mut index = 0;
        append_many(&mut log, &mut index, 50).await;
        log.purge(logs::log_id(1, index - 1)).await.unwrap();
        // What comes next makes the purge durable, and then marks it so.
        append_many(&mut log, &mut index, 2).await;
        eventually("there are spares", || spares() >= 9).await;

        let used_bytes = disk.used_bytes();
        append_many(&mut log, &mut index, 30).await;
        assert_eq!(disk.used_bytes(), used_bytes, "a segment was made while there were spares");
        assert!(spares() <= 5);

        for _ in 0..8 {
            log.purge(logs::log_id(1, index - 1)).await.unwrap();
            append_many(&mut log, &mut index, 7).await;
        }
        eventually("those that a shorter log has no use for are gone", || spares() <= 3).await;

        append_many(&mut log, &mut index, 30).await;
        log.purge(logs::log_id(1, index - 1)).await.unwrap();
        append_many(&mut log, &mut index, 2).await;
        eventually("there are some again", || spares() >= 5).await;
        log.give_back();
        eventually("all were given back", || spares() == 0).await;
        assert!(disk.used_bytes() <= 3 * logs::SEGMENT_BYTES);
    });
}
