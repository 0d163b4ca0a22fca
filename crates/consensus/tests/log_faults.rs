//! What the disk log does when the disk does not do its part, and what it never does.

#![allow(clippy::unwrap_used, missing_docs)]

mod logs;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use consensus::{
    log::{
        LocalLog as _, READ_BYTES_MAX,
        disk::{self, DiskLog, Error, Setup},
    },
    types::Entry,
};
use logs::{eventually, session::Session};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use state::bounds::BATCH_BYTES_MAX;
use storage::fs::{Disk, UNSYNCED_BYTES_MAX, faulty::FaultyDisk};

/// A log that is never idle: it writes no mark before its next batch.
fn session_log(disk: &FaultyDisk) -> (Session, DiskLog) {
    let session = Session::new(disk);
    let log = DiskLog::open(patient(&session)).unwrap();
    (session, log)
}

fn patient(session: &Session) -> Setup {
    Setup { env: Arc::new(logs::Patient::default()), ..logs::setup(session.clone(), &logs::dir()) }
}

async fn entries(log: &mut DiskLog) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    let names = disk.list(&logs::dir()).unwrap();
    names.iter().filter(|name| name.ends_with(".log")).map(|name| logs::dir().join(name)).collect()
}

fn content(disk: &FaultyDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn overwrite(disk: &FaultyDisk, path: &Path, offset: usize, bytes: &[u8]) {
    disk.open(path).unwrap().write_all_at(bytes, offset as u64).unwrap();
}

fn used(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// The block that the witness takes.
const WITNESS_BYTES: u64 = 4_096;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_flipped_bit_before_the_mark_is_refused_with_its_place() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        for index in 0..8 {
            logs::append(&mut log, vec![logs::entry(1, index, 300)]).await.unwrap();
        }
        log.save_vote(&logs::vote(2)).await.unwrap();
        log.close().unwrap();

        let path = &segments(&disk)[0];
        let good = content(&disk, path);
        // The last mark itself is the only record that no mark covers.
        let covered = used(&good) - MARK_FRAME_BYTES;
        for offset in (0..covered).step_by(7).chain([covered - 1]) {
            overwrite(&disk, path, offset, &[good[offset] ^ 0x10]);
            match logs::open(&disk).unwrap_err() {
                Error::Corrupt { path: named, offset: at, .. } => {
                    assert_eq!(&named, path);
                    assert!(at <= offset as u64 && (offset as u64) < at + 700, "flipped {offset}, named {at}");
                }
                error => panic!("flipped {offset}: {error}"),
            }
            overwrite(&disk, path, offset, &[good[offset]]);
        }
        overwrite(&disk, path, covered + 10, &[good[covered + 10] ^ 1]);
        let mut log = logs::open(&disk).unwrap();
        assert_eq!(entries(&mut log).await.len(), 8);
        assert_eq!(log.read_vote().await.unwrap(), Some(logs::vote(2)));
    });
}

/// Length, CRC, kind, version, and a place.
const MARK_FRAME_BYTES: usize = 26;

#[test]
fn a_torn_batch_is_cut_and_leaves_nothing_behind() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, mut log) = session_log(&disk);
        let kept = logs::entry(1, 0, 100);
        logs::append(&mut log, vec![kept.clone()]).await.unwrap();
        let torn: Vec<_> = (1..4).map(|index| logs::entry(1, index, 9000)).collect();
        logs::append(&mut log, torn).await.unwrap();
        session.crash(None);
        let _ = log.close();

        // The middle of the batch's first entry did not reach the disk; its third did.
        let path = &segments(&disk)[0];
        overwrite(&disk, path, 5000, &[0; 512]);
        let third = [32 + 2_u8; 64];
        assert!(content(&disk, path).windows(64).any(|window| window == third));

        let mut log = logs::open(&disk).unwrap();
        assert_eq!(entries(&mut log).await, std::slice::from_ref(&kept));
        assert!(!content(&disk, path).windows(64).any(|window| window == third));

        let instead = logs::entry(2, 1, 9000);
        logs::append(&mut log, vec![instead.clone()]).await.unwrap();
        log.close().unwrap();
        assert_eq!(entries(&mut logs::open(&disk).unwrap()).await, [kept, instead]);
    });
}

/// A log of several segments, closed, and its segments.
async fn long_log(disk: &FaultyDisk) -> Vec<PathBuf> {
    let mut log = logs::open(disk).unwrap();
    for index in 0..24 {
        logs::append(&mut log, vec![logs::entry(1, index, 12_000)]).await.unwrap();
    }
    log.close().unwrap();
    let segments = segments(disk);
    assert!(segments.len() >= 5, "{segments:?}");
    segments
}

#[test]
fn a_missing_segment_is_refused() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let segments = long_log(&disk).await;
        disk.rename(&segments[2], &logs::dir().join("aside")).unwrap();
        assert!(matches!(logs::open(&disk).unwrap_err(), Error::Missing { path } if path == segments[2]));
        disk.rename(&logs::dir().join("aside"), &segments[2]).unwrap();

        disk.remove(&segments[0]).unwrap();
        match logs::open(&disk).unwrap_err() {
            Error::Corrupt { path, offset: 0, detail } if path == segments[1] => {
                assert!(detail.contains("missing"), "{detail}");
            }
            error => panic!("{error}"),
        }
    });
}

#[test]
fn a_missing_newest_segment_is_refused() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        for path in long_log(&disk).await.into_iter().skip(3) {
            disk.remove(&path).unwrap();
        }
        assert!(matches!(logs::open(&disk).unwrap_err(), Error::Missing { .. }));
    });
}

#[test]
fn damage_in_a_full_segment_is_refused() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let segments = long_log(&disk).await;
        overwrite(&disk, &segments[1], 30_000, b"damage");
        assert!(matches!(logs::open(&disk).unwrap_err(), Error::Corrupt { path, .. } if path == segments[1]));
    });
}

#[test]
fn the_files_of_another_log_are_refused() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let segments = long_log(&disk).await;
        let other = |dir: &Path| Setup { identity: logs::identity("another log"), ..logs::setup(disk.clone(), dir) };
        let error = DiskLog::open(other(&logs::dir())).unwrap_err();
        assert!(matches!(&error, Error::Foreign { path, .. } if path == &segments[0]), "{error}");

        let elsewhere = PathBuf::from("/data/elsewhere");
        let mut log = DiskLog::open(other(&elsewhere)).unwrap();
        logs::append(&mut log, vec![logs::entry(1, 0, 10)]).await.unwrap();
        log.close().unwrap();
        disk.rename(&elsewhere.join("0000000000000001.log"), &segments[1]).unwrap();
        let error = logs::open(&disk).unwrap_err();
        assert!(matches!(&error, Error::Foreign { path, .. } if path == &segments[1]), "{error}");
    });
}

#[test]
fn a_renamed_segment_is_refused() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let segments = long_log(&disk).await;
        let swap = logs::dir().join("aside");
        disk.rename(&segments[1], &swap).unwrap();
        disk.rename(&segments[2], &segments[1]).unwrap();
        disk.rename(&swap, &segments[2]).unwrap();
        let error = logs::open(&disk).unwrap_err();
        assert!(matches!(&error, Error::Foreign { path, .. } if path == &segments[1]), "{error}");
    });
}

#[test]
fn purged_segments_are_used_again_and_bring_nothing_back() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, mut log) = session_log(&disk);
        log.save_vote(&logs::vote(3)).await.unwrap();
        let mut kept = Vec::new();
        for index in 0..410 {
            let entry = logs::entry(3, index, 3000);
            logs::append(&mut log, vec![entry.clone()]).await.unwrap();
            if index % 20 == 19 {
                log.purge(entry.log_id).await.unwrap();
                kept.clear();
            } else {
                kept.push(entry);
            }
        }
        // In use, the next one, the spare, and one on its way.
        eventually("old segments are gone", || disk.used_bytes() <= 4 * logs::SEGMENT_BYTES).await;
        session.crash(Some(1));
        let _ = log.close();

        let newest = segments(&disk).pop().unwrap();
        assert!(newest > logs::dir().join("0000000000000010.log"), "{newest:?}");
        let mut log = logs::open(&disk).unwrap();
        assert_eq!(entries(&mut log).await, kept);
        assert_eq!(log.read_vote().await.unwrap(), Some(logs::vote(3)));
        assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(logs::log_id(3, 399)));
    });
}

#[test]
fn segments_are_kept_until_a_durable_mark_covers_their_purge() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, mut log) = session_log(&disk);
        for index in 0..12 {
            logs::append(&mut log, vec![logs::entry(1, index, 12_000)]).await.unwrap();
        }
        log.purge(logs::log_id(1, 11)).await.unwrap();
        logs::append(&mut log, vec![logs::entry(1, 12, 10)]).await.unwrap();
        // A log that gave them away too early would do it about now.
        let oldest = segments(&disk)[0].clone();
        let watched = Instant::now();
        while watched.elapsed() < Duration::from_millis(50) {
            assert_eq!(segments(&disk)[0], oldest);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        session.crash(None);
        let _ = log.close();

        // The batch with the purge is damaged, and looks like a torn one.
        let active = segments(&disk).into_iter().rfind(|path| used_bytes(&disk, path) > 0).unwrap();
        let end = used(&content(&disk, &active));
        overwrite(&disk, &active, end - 100, &[0xFF; 100]);
        let mut log = logs::open(&disk).unwrap();
        assert!(entries(&mut log).await.len() >= 11);
    });
}

fn used_bytes(disk: &FaultyDisk, path: &Path) -> usize {
    content(disk, path).iter().filter(|byte| **byte != 0).count()
}

#[test]
fn a_failed_sync_ends_the_log() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, mut log) = session_log(&disk);
        logs::append(&mut log, vec![logs::entry(1, 0, 10)]).await.unwrap();
        // Its making syncs, too.
        eventually("the next segment is there", || segments(&disk).len() == 2).await;
        session.fail_syncs(true);
        let error = logs::append(&mut log, vec![logs::entry(1, 1, 10)]).await.unwrap_err();
        assert!(error.to_string().contains("sync /data/log/0000000000000001.log"), "{error}");
        assert!(log.poisoned().is_some());

        session.fail_syncs(false);
        let syncs = session.syncs();
        assert!(logs::append(&mut log, vec![logs::entry(1, 1, 10)]).await.is_err());
        assert!(log.save_vote(&logs::vote(2)).await.is_err());
        assert!(log.save_committed(None).await.is_err());
        assert!(log.truncate_after(None).await.is_err());
        assert!(log.purge(logs::log_id(1, 0)).await.is_err());
        assert!(log.try_get_log_entries(..).await.is_err());
        assert!(log.close().is_err());
        assert_eq!(session.syncs(), syncs, "nothing is synced after a failure");
    });
}

#[test]
fn a_hole_ends_the_log_before_it_is_written() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        logs::append(&mut log, vec![logs::entry(1, 5, 10)]).await.unwrap();
        assert!(logs::append(&mut log, vec![logs::entry(1, 7, 10)]).await.is_err());
        assert!(log.poisoned().is_some());
        let _ = log.close();
        assert_eq!(entries(&mut logs::open(&disk).unwrap()).await, [logs::entry(1, 5, 10)]);
    });
}

/// A log whose second segment is made, on a disk that has no room for a third.
async fn with_room_for_two_segments() -> (FaultyDisk, DiskLog) {
    let disk = FaultyDisk::new();
    let log = logs::open(&disk).unwrap();
    let used = 2 * logs::SEGMENT_BYTES + WITNESS_BYTES;
    eventually("the next segment is there", || disk.used_bytes() == used).await;
    disk.set_capacity(Some(used + 10_000));
    (disk, log)
}

#[test]
fn a_full_disk_is_told_ahead_and_loses_nothing() {
    logs::runtime().block_on(async {
        let (disk, mut log) = with_room_for_two_segments().await;
        let mut all = Vec::new();
        let mut append = |index| {
            all.push(logs::entry(1, index, 12_000));
            vec![all.last().unwrap().clone()]
        };
        // The first segment holds five of these; the sixth opens the second, and there is no room for a third.
        for index in 0..6 {
            logs::append(&mut log, append(index)).await.unwrap();
        }
        eventually("the disk is full", || log.disk_full()).await;
        // A whole segment was ready: what is in flight has room.
        for index in 6..10 {
            logs::append(&mut log, append(index)).await.unwrap();
        }
        let mut waiting = logs::start_append(&mut log, append(10)).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "there is no room, and yet it is durable");
        assert!(log.disk_full() && log.poisoned().is_none());

        disk.set_capacity(None);
        waiting.await.unwrap().unwrap();
        eventually("the disk has room", || !log.disk_full()).await;
        assert_eq!(entries(&mut log).await, all);
        log.close().unwrap();
        assert_eq!(entries(&mut logs::open(&disk).unwrap()).await, all);
    });
}

#[test]
fn on_a_full_disk_the_rest_of_the_segment_is_for_votes_and_what_is_vital() {
    logs::runtime().block_on(async {
        let (disk, mut log) = with_room_for_two_segments().await;
        let mut index = 0;
        let mut append = async |log: &mut DiskLog, bytes: usize| {
            logs::append(log, vec![logs::entry(1, index, bytes)]).await.unwrap();
            index += 1;
        };
        for _ in 0..6 {
            append(&mut log, 12_000).await;
        }
        eventually("the disk is full", || log.disk_full()).await;
        let mut taken = 0;
        while log.has_room_for(1_200, false) {
            append(&mut log, 1_000).await;
            taken += 1;
        }
        // About 52 KiB were left, of which an eighth of the 64 is kept.
        assert!((35..52).contains(&taken), "{taken}");
        let mut vital = 0;
        while log.has_room_for(200, true) {
            append(&mut log, 50).await;
            vital += 1;
        }
        assert!(vital > 10, "{vital}");
        // A vote has what is left after that.
        log.save_vote(&logs::vote(2)).await.unwrap();
        assert!(log.disk_full() && log.poisoned().is_none());

        disk.set_capacity(None);
        eventually("the disk has room", || log.has_room_for(12_000, false)).await;
        append(&mut log, 12_000).await;
        log.close().unwrap();
    });
}

#[test]
fn what_there_is_room_for_is_written_however_fast_it_comes_and_the_disk_fills() {
    logs::runtime().block_on(async {
        let (disk, mut log) = with_room_for_two_segments().await;
        let mut waiting = Vec::new();
        let begin = Instant::now();
        while !log.disk_full() || log.has_room_for(12_300, false) {
            if log.has_room_for(12_300, false) {
                let entry = logs::entry(1, waiting.len() as u64, 12_000);
                waiting.push(logs::start_append(&mut log, vec![entry]).await.unwrap());
            } else {
                tokio::task::yield_now().await;
            }
            assert!(begin.elapsed() < PATIENCE, "the disk does not fill");
        }
        assert!(waiting.len() > 4, "{}", waiting.len());
        for written in waiting {
            tokio::time::timeout(PATIENCE, written).await.expect("it was let in without room").unwrap().unwrap();
        }
        disk.set_capacity(None);
        log.close().unwrap();
    });
}

#[test]
fn a_log_that_waits_for_room_can_be_closed() {
    logs::runtime().block_on(async {
        let (disk, mut log) = with_room_for_two_segments().await;
        for index in 0..10 {
            logs::append(&mut log, vec![logs::entry(1, index, 12_000)]).await.unwrap();
        }
        let waiting = logs::start_append(&mut log, vec![logs::entry(1, 10, 12_000)]).await.unwrap();
        eventually("the disk is full", || log.disk_full()).await;
        assert!(log.close().is_err());
        assert!(waiting.await.unwrap().is_err());
        assert_eq!(entries(&mut logs::open(&disk).unwrap()).await.len(), 10);
    });
}

#[test]
fn an_entry_that_fits_no_segment_ends_the_log() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        let error = logs::append(&mut log, vec![logs::entry(1, 0, 70_000)]).await.unwrap_err();
        assert!(error.to_string().contains("does not fit a log segment"), "{error}");
        let _ = log.close();
        assert_eq!(entries(&mut logs::open(&disk).unwrap()).await, []);
    });
}

#[test]
fn larger_segments_are_in_use_at_the_first_start_that_asks_for_them() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        eventually("the next segment is there", || segments(&disk).len() == 2).await;
        logs::append(&mut log, vec![logs::entry(1, 0, 40_000)]).await.unwrap();
        log.close().unwrap();

        let larger = 2 * logs::SEGMENT_BYTES;
        let mut log =
            DiskLog::open(Setup { segment_bytes: larger, ..logs::setup(disk.clone(), &logs::dir()) }).unwrap();
        logs::append(&mut log, vec![logs::entry(1, 1, 70_000)]).await.unwrap();
        log.close().unwrap();
        let mut log = logs::open(&disk).unwrap();
        assert_eq!(entries(&mut log).await, [logs::entry(1, 0, 40_000), logs::entry(1, 1, 70_000)]);
    });
}

/// The segment that is written to would wait for all of it.
#[test]
fn a_segment_that_is_made_ahead_is_synced_bit_by_bit() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let segment_bytes = 8 * UNSYNCED_BYTES_MAX;
        let setup = Setup { segment_bytes, ..logs::setup(disk.clone(), &logs::dir()) };
        let log = DiskLog::open(setup).unwrap();
        eventually("the next segment is there", || segments(&disk).len() == 2).await;
        log.close().unwrap();
        assert_eq!(disk.unsynced_bytes_most(), UNSYNCED_BYTES_MAX);
    });
}

#[test]
fn no_append_waits_for_more_room_than_there_can_be() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        // Most of the first segment is in use: hardly more than the next one is left.
        for index in 0..5 {
            logs::append(&mut log, vec![logs::entry(1, index, 12_000)]).await.unwrap();
        }
        eventually("there is room", || log.has_room_for(10 * logs::SEGMENT_BYTES, false)).await;

        let mib = 1 << 20;
        for (least, command_bytes_max) in [(mib, 1_000), (mib, 3 * mib), (16 * mib, 3 * mib)] {
            let bytes = disk::segment_bytes(least, command_bytes_max);
            assert!(bytes >= least && bytes >= 4 * command_bytes_max, "{bytes}");
            assert!(bytes > 4 * BATCH_BYTES_MAX.max(READ_BYTES_MAX) as u64, "{bytes}");
        }
    });
}

#[test]
fn what_comes_together_is_synced_together_and_told_after() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, log) = session_log(&disk);
        eventually("the next segment is there", || segments(&disk).len() == 2).await;
        let counter = Arc::new(logs::Counter::default());
        log.close().unwrap();
        let mut log = DiskLog::open(Setup { observer: counter.clone(), ..patient(&session) }).unwrap();
        let syncs = session.syncs();
        session.hold_syncs();
        let first = logs::start_append(&mut log, vec![logs::entry(1, 0, 10)]).await.unwrap();
        session.wait_for_held_sync(syncs);

        let mut waiting = Vec::new();
        for index in 1..=200 {
            waiting.push(logs::start_append(&mut log, vec![logs::entry(1, index, 10)]).await.unwrap());
        }
        assert_eq!(entries(&mut log).await.len(), 201, "readable before they are durable");
        let mut voter = log.clone();
        let vote = logs::vote(2);
        let mut vote = std::pin::pin!(voter.save_vote(&vote));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut vote).await;
        assert!(early.is_err() && waiting[199].try_recv().is_err(), "told before it is durable");

        session.release_syncs();
        first.await.unwrap().unwrap();
        for synced in waiting {
            synced.await.unwrap().unwrap();
        }
        vote.await.unwrap();
        assert_eq!(counter.0.load(Ordering::Relaxed), 2, "one batch before, one for all that came together");
    });
}

#[test]
fn a_committed_position_waits_for_no_sync_and_is_there_after_closing() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let (session, mut log) = session_log(&disk);
        logs::append(&mut log, vec![logs::entry(1, 0, 10)]).await.unwrap();
        session.hold_syncs();
        log.save_committed(Some(logs::log_id(1, 0))).await.unwrap();
        assert_eq!(log.read_committed().await.unwrap(), Some(logs::log_id(1, 0)));
        session.release_syncs();
        log.close().unwrap();
        assert!(log.save_committed(None).await.is_err(), "a closed log takes nothing");
        let mut log = logs::open(&disk).unwrap();
        assert_eq!(log.read_committed().await.unwrap(), Some(logs::log_id(1, 0)));
    });
}

#[test]
fn a_bounded_read_ends_at_its_bound_but_gives_at_least_one() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let big = Setup { segment_bytes: 16 << 20, ..logs::setup(disk.clone(), &logs::dir()) };
        let mut log = DiskLog::open(big).unwrap();
        for index in 0..4 {
            logs::append(&mut log, vec![logs::entry(1, index, 400_000)]).await.unwrap();
        }
        logs::append(&mut log, vec![logs::entry(1, 4, 3_000_000)]).await.unwrap();
        let read = log.limited_get_log_entries(0, 5).await.unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(log.limited_get_log_entries(4, 5).await.unwrap(), [logs::entry(1, 4, 3_000_000)]);
        assert_eq!(
            log.try_get_log_entries(1..=2).await.unwrap(),
            [logs::entry(1, 1, 400_000), logs::entry(1, 2, 400_000)]
        );
    });
}
