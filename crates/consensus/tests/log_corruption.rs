//! A log whose files were damaged while nobody had it open: bytes flipped, sectors zeroed, files cut, lost, or put back as
//! they once were. Each time it is refused with the file named, or holds exactly what it held: entries, vote, purge point.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod logs;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use consensus::{
    log::disk::{DiskLog, Error, Setup},
    types::{Entry, LogId, Vote},
};
use logs::session::Session;
use openraft::{RaftLogReader, storage::RaftLogStorage};
use storage::fs::{Disk, faulty::FaultyDisk};

const SECTOR_BYTES: usize = 512;

/// The files of a log's directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a log holds.
#[derive(Debug, PartialEq)]
struct Held {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

fn files(disk: &FaultyDisk) -> Files {
    let names = disk.list(&logs::dir()).unwrap();
    let read = |name: &String| {
        let path = logs::dir().join(name);
        let file = disk.open(&path).unwrap();
        let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut content, 0).unwrap();
        (path, content)
    };
    names.iter().map(read).collect()
}

fn disk_with(files: &Files) -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_dir(&logs::dir()).unwrap();
    for (path, content) in files {
        disk.create(path).unwrap().write_all_at(content, 0).unwrap();
    }
    disk
}

async fn held(log: &mut DiskLog) -> Held {
    let state = log.get_log_state().await.unwrap();
    Held {
        entries: log.try_get_log_entries(..).await.unwrap(),
        vote: log.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        committed: log.read_committed().await.unwrap(),
    }
}

/// What the log in these files holds, or the file that its refusal names.
async fn read(files: &Files) -> Result<Held, (PathBuf, Error)> {
    let opened = logs::open(&disk_with(files));
    let mut log = match opened {
        Ok(log) => log,
        Err(error) => {
            let path = match &error {
                Error::Corrupt { path, .. }
                | Error::Missing { path }
                | Error::Foreign { path, .. }
                | Error::Version { path, .. }
                | Error::RecordVersion { path, .. } => path.clone(),
                Error::Io { .. } | Error::SegmentBytes(_) => panic!("not told as damage: {error}"),
            };
            return Err((path, error));
        }
    };
    let held = held(&mut log).await;
    log.close().unwrap();
    Ok(held)
}

fn used(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The log after each of several runs, the last one as it is: with everything that a log can hold, in segments that have
/// been others before. Each run but the first ends with a vote.
async fn made() -> (Vec<Files>, Held) {
    let disk = FaultyDisk::new();
    let mut runs = Vec::new();
    let (mut term, mut index) = (1, 0);
    let mut last = None;
    for run in 0..6 {
        let mut log = logs::open(&disk).unwrap();
        // The last run is a short one: it goes on in the segment of the one before.
        for _ in 0..if run == 5 { 2 } else { 60 } {
            logs::append(&mut log, vec![logs::entry(term, index, 2_000)]).await.unwrap();
            index += 1;
        }
        log.save_committed(Some(logs::log_id(term, index - 1))).await.unwrap();
        // A new leader's entries in place of the last three, and a purge far behind.
        log.truncate_after(Some(logs::log_id(term, index - 4))).await.unwrap();
        index -= 3;
        term += 1;
        log.save_vote(&logs::vote(term)).await.unwrap();
        logs::append(&mut log, vec![logs::entry(term, index, 300)]).await.unwrap();
        index += 1;
        if (1..5).contains(&run) {
            log.purge(logs::log_id(term - 1, index - 40)).await.unwrap();
            logs::append(&mut log, vec![logs::entry(term, index, 300)]).await.unwrap();
            index += 1;
        }
        log.save_vote(&logs::vote(term + 1)).await.unwrap();
        term += 1;
        last = Some(held(&mut log).await);
        log.close().unwrap();
        runs.push(files(&disk));
    }
    (runs, last.unwrap())
}

/// Counts what was noticed and what was harmless; panics for what was neither.
#[derive(Debug, Default)]
struct Tally {
    noticed: usize,
    harmless: usize,
}

impl Tally {
    async fn take(&mut self, files: &Files, expected: &Held, damage: &str) -> Option<PathBuf> {
        match read(files).await {
            Ok(held) => {
                assert!(held == *expected, "{damage}: the log has lost or changed something, and says nothing");
                self.harmless += 1;
                None
            }
            Err((path, _)) => {
                self.noticed += 1;
                Some(path)
            }
        }
    }
}

#[test]
fn flipped_bits_and_zeroed_sectors_are_noticed_or_harmless() {
    logs::runtime().block_on(async {
        let (runs, expected) = made().await;
        let good = runs.last().unwrap();
        let segments: Vec<&PathBuf> =
            good.keys().filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
        assert!(segments.len() >= 3 && good.contains_key(&logs::dir().join("witness")), "{:?}", good.keys());
        let mut tally = Tally::default();
        assert_eq!(tally.take(good, &expected, "nothing").await, None);
        for (path, content) in good {
            let used = used(content);
            // Every byte of what was written last; of the rest, one in each sector.
            let fine = used.saturating_sub(3_000);
            let coarse = (0..fine).step_by(SECTOR_BYTES).map(|at| (at + at / 7 % SECTOR_BYTES).min(fine - 1));
            for at in coarse.chain(fine..used) {
                let mut damaged = good.clone();
                damaged.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
                let named = tally.take(&damaged, &expected, &format!("{path:?} flipped at {at}")).await;
                let is_right = named.as_ref().is_none_or(|named| named == path);
                assert!(is_right, "{path:?} flipped at {at}, but {named:?} is named");
            }
            for at in (0..used).step_by(SECTOR_BYTES) {
                let mut damaged = good.clone();
                let end = (at + SECTOR_BYTES).min(content.len());
                damaged.get_mut(path).unwrap()[at..end].fill(0);
                tally.take(&damaged, &expected, &format!("{path:?} zeroed at {at}")).await;
            }
        }
        println!("{tally:?}");
        assert!(tally.noticed > 2_000, "{tally:?}");
    });
}

#[test]
fn files_that_are_cut_or_lost_are_noticed_or_harmless() {
    logs::runtime().block_on(async {
        let (runs, expected) = made().await;
        let good = runs.last().unwrap();
        let mut tally = Tally::default();
        for (path, content) in good {
            for cut in [0, 1, 127, 128, 500, 4096, content.len() / 2, content.len().saturating_sub(1)] {
                let mut damaged = good.clone();
                damaged.get_mut(path).unwrap().truncate(cut);
                tally.take(&damaged, &expected, &format!("{path:?} cut to {cut}")).await;
            }
            let mut damaged = good.clone();
            damaged.remove(path);
            tally.take(&damaged, &expected, &format!("{path:?} removed")).await;
        }
        println!("{tally:?}");
        assert!(tally.noticed > 20, "{tally:?}");
    });
}

#[test]
fn a_file_as_it_once_was_is_noticed_or_harmless() {
    logs::runtime().block_on(async {
        let (runs, expected) = made().await;
        let good = runs.last().unwrap();
        let mut tally = Tally::default();
        for (run, older) in runs.iter().enumerate() {
            for (path, content) in older {
                let mut damaged = good.clone();
                damaged.insert(path.clone(), content.clone());
                tally.take(&damaged, &expected, &format!("{path:?} as after run {run}")).await;
            }
        }
        println!("{tally:?}");
        let before = &runs[runs.len() - 2];
        let has_gone_on = |path: &PathBuf| {
            let is_segment = path.extension().is_some_and(|it| it == "log");
            is_segment && before.get(path).is_some_and(|older| used(older) > 0 && older != &good[path])
        };
        let newest = good.keys().rfind(|path| has_gone_on(path)).expect("the last run went on in an old segment");
        let damaged = good.iter().map(|(path, content)| (path, if path == newest { &before[path] } else { content }));
        let damaged = damaged.map(|(path, content)| (path.clone(), content.clone())).collect();
        let named = tally.take(&damaged, &expected, "the newest segment as after the run before").await;
        assert_eq!(named.as_ref(), Some(newest));
    });
}

/// A log that was idle knows from its witness what it held, also when its process was killed.
#[test]
fn an_idle_log_that_was_killed_loses_nothing_unnoticed() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        logs::append(&mut log, vec![logs::entry(1, 0, 20)]).await.unwrap();
        log.save_vote(&logs::vote(2)).await.unwrap();
        let expected = held(&mut log).await;
        let witness = logs::dir().join("witness");
        let mut good = Files::new();
        logs::eventually("the witness is told", || {
            good = files(&disk);
            good.get(&witness).is_some_and(|content| content.iter().any(|byte| *byte != 0))
        })
        .await;
        let _ = log.close();

        let mut tally = Tally::default();
        let first = good.keys().next().unwrap().clone();
        // All of the log lies in two sectors: with them go the entry, the vote, and all marks.
        let mut damaged = good.clone();
        damaged.get_mut(&first).unwrap().fill(0);
        assert_eq!(tally.take(&damaged, &expected, "all zeroed").await.as_ref(), Some(&first));
        damaged.remove(&first);
        assert!(tally.take(&damaged, &expected, "lost").await.is_some());
    });
}

/// A log that was killed at its busiest: the last batch looks torn when it is damaged, and that batch alone is cut.
#[test]
fn of_a_busy_log_that_was_killed_only_the_last_batch_may_be_cut() {
    logs::runtime().block_on(async {
        let disk = FaultyDisk::new();
        let session = Session::new(&disk);
        let busy = Setup { env: Arc::new(logs::Patient::default()), ..logs::setup(session.clone(), &logs::dir()) };
        let mut log = DiskLog::open(busy).unwrap();
        for index in 0..6 {
            logs::append(&mut log, vec![logs::entry(1, index, 300)]).await.unwrap();
        }
        let before = held(&mut log).await;
        logs::append(&mut log, vec![logs::entry(1, 6, 300)]).await.unwrap();
        let expected = held(&mut log).await;
        session.crash(None);
        let _ = log.close();

        let good = files(&disk);
        let first: &Path = good.keys().next().unwrap();
        let (mut cut, mut noticed) = (0, 0);
        for at in 0..used(&good[first]) {
            let mut damaged = good.clone();
            damaged.get_mut(first).unwrap()[at] ^= 1 << (at % 8);
            match read(&damaged).await {
                Ok(held) if held == before => cut += 1,
                Ok(held) => assert!(held == expected, "flipped at {at}: the log holds something else"),
                Err(_) => noticed += 1,
            }
        }
        // The last batch: its mark, and an entry of 300 bytes.
        assert!(cut > 300 && cut < 450 && noticed > 1_800, "{cut} times cut, {noticed} times noticed");
    });
}
