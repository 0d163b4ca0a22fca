//! Random histories of the disk log beside a plain model, with crashes that lose and tear what was not synced.
//!
//! All that the log does is one stream. So after a crash it must hold what the model held at some moment: none
//! earlier than the last that anybody was promised, none that never was.

#![allow(clippy::unwrap_used, missing_docs)]

mod logs;

use std::collections::BTreeMap;

use consensus::{
    log::{disk::DiskLog, memory::MemoryLog},
    types::{Entry, LogId, TypeConfig, Vote},
};
use logs::{Synced, session::Session};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use proptest::prelude::*;
use storage::fs::faulty::FaultyDisk;

#[derive(Clone, Debug)]
enum Step {
    /// Entries of these sizes.
    Append(Vec<usize>),
    /// Waits until the last append is durable.
    Wait,
    /// Removes so many entries from the end, and begins a new term.
    Truncate(u64),
    /// Purges up to so many entries before the end, or past it.
    Purge(i64),
    /// Votes in a new term.
    Vote,
    /// Says that so many entries from the end are not committed, and the others are.
    Commit(u64),
    /// Reads a range, so many entries from the end.
    Read(u64),
    /// Ends in good order, and begins again.
    Reopen,
    /// Loses what was not synced; keeps a random part of it with a seed.
    Crash(Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![4 => 0..200_usize, 2 => 200..3000_usize, 1 => 3000..15_000_usize];
    prop_oneof![
        12 => prop::collection::vec(bytes, 1..6).prop_map(Step::Append),
        4 => Just(Step::Wait),
        2 => (0..6_u64).prop_map(Step::Truncate),
        2 => (-2..8_i64).prop_map(Step::Purge),
        1 => Just(Step::Vote),
        3 => (0..4_u64).prop_map(Step::Commit),
        2 => (0..20_u64).prop_map(Step::Read),
        1 => Just(Step::Reopen),
        2 => prop::option::weighted(0.8, any::<u64>()).prop_map(Step::Crash),
    ]
}

/// What a log holds, save the committed position: that is a hint, and may be any that was saved.
#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
}

impl Picture {
    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    async fn read<L: RaftLogStorage<TypeConfig> + RaftLogReader<TypeConfig>>(log: &mut L) -> Self {
        let entries = log.try_get_log_entries(..).await.unwrap();
        let state = log.get_log_state().await.unwrap();
        let picture = Self {
            purged: state.last_purged_log_id,
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            vote: log.read_vote().await.unwrap(),
        };
        assert_eq!(state.last_log_id, picture.last());
        picture
    }
}

/// Every moment since the log was opened, oldest first.
struct History {
    moments: Vec<Picture>,
    /// The last moment that somebody was promised.
    promised: usize,
    committed: Vec<Option<LogId>>,
    term: u64,
}

impl History {
    fn now(&self) -> &Picture {
        self.moments.last().unwrap()
    }

    fn change(&mut self, change: impl FnOnce(&mut Picture)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.moments.push(next);
    }

    fn append(&mut self, sizes: &[usize]) -> Vec<Entry> {
        let first = self.now().next_index();
        let entries: Vec<_> =
            (first..).zip(sizes).map(|(index, bytes)| logs::entry(self.term, index, *bytes)).collect();
        for entry in &entries {
            self.change(|picture| drop(picture.entries.insert(entry.log_id.index, entry.clone())));
        }
        entries
    }

    fn truncate(&mut self, count: u64) -> Option<LogId> {
        let first = self.now().purged.map_or(0, |purged| purged.index + 1);
        let end = self.now().next_index().saturating_sub(count).max(first);
        self.term += 1;
        self.change(|picture| drop(picture.entries.split_off(&end)));
        self.now().last()
    }

    fn purge(&mut self, before_end: i64) -> Option<LogId> {
        let index = self.now().next_index().checked_add_signed(-1 - before_end)?;
        let term = self.now().entries.get(&index).map_or(self.term, |entry| entry.log_id.leader_id.term);
        let upto = logs::log_id(term, index);
        if self.now().purged.is_some_and(|purged| purged.index >= index) {
            return None;
        }
        self.change(|picture| {
            picture.entries = picture.entries.split_off(&(index + 1));
            picture.purged = Some(upto);
        });
        Some(upto)
    }

    fn commit(&mut self, before_end: u64) -> Option<LogId> {
        let index = self.now().next_index().checked_sub(1 + before_end)?;
        let log_id = self.now().entries.get(&index)?.log_id;
        self.committed.push(Some(log_id));
        Some(log_id)
    }

    /// Everything is promised.
    fn promise_all(&mut self) {
        self.promised = self.moments.len() - 1;
    }

    /// Goes on from what a crash has left.
    fn recover(&mut self, found: Picture, committed: Option<LogId>) {
        let possible = &self.moments[self.promised..];
        assert!(possible.contains(&found), "the log holds what it never held: {found:?}");
        assert!(self.committed.contains(&committed), "{committed:?} was never saved");
        self.moments = vec![found];
        self.promised = 0;
        self.committed = vec![committed];
        // Entries of the lost part may come again, but never as the same term's: so Raft has it, too.
        self.term += 1;
    }
}

struct Run {
    disk: FaultyDisk,
    session: Session,
    log: DiskLog,
    history: History,
    waiting: Option<(Synced, usize)>,
}

impl Run {
    fn start() -> Self {
        let disk = FaultyDisk::new();
        let session = Session::new(&disk);
        let log = DiskLog::open(logs::setup(session.clone(), &logs::dir())).unwrap();
        let history = History { moments: vec![Picture::default()], promised: 0, committed: vec![None], term: 1 };
        Self { disk, session, log, history, waiting: None }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(sizes) => {
                let entries = self.history.append(&sizes);
                let synced = logs::start_append(&mut self.log, entries).await.unwrap();
                self.waiting = Some((synced, self.history.moments.len() - 1));
            }
            Step::Wait => {
                if let Some((synced, moment)) = self.waiting.take() {
                    synced.await.unwrap().unwrap();
                    self.history.promised = moment;
                }
            }
            Step::Truncate(count) => {
                let last = self.history.truncate(count);
                self.log.truncate_after(last).await.unwrap();
            }
            Step::Purge(before_end) => {
                if let Some(upto) = self.history.purge(before_end) {
                    self.log.purge(upto).await.unwrap();
                }
            }
            Step::Vote => {
                self.history.term += 1;
                let vote = logs::vote(self.history.term);
                self.history.change(|picture| picture.vote = Some(vote));
                self.log.save_vote(&vote).await.unwrap();
                self.history.promise_all();
            }
            Step::Commit(before_end) => {
                if let Some(committed) = self.history.commit(before_end) {
                    self.log.save_committed(Some(committed)).await.unwrap();
                }
            }
            Step::Read(before_end) => self.read(before_end).await,
            Step::Reopen => {
                self.log.close().unwrap();
                self.history.promise_all();
                self.history.committed.drain(..self.history.committed.len() - 1);
                self.open().await;
            }
            Step::Crash(torn) => {
                self.session.crash(torn);
                // The threads of the dead process may take a moment to find out.
                let _ = self.log.close();
                self.open().await;
            }
        }
    }

    async fn open(&mut self) {
        self.waiting = None;
        self.session = Session::new(&self.disk);
        self.log = DiskLog::open(logs::setup(self.session.clone(), &logs::dir())).unwrap();
        let found = Picture::read(&mut self.log).await;
        let committed = self.log.read_committed().await.unwrap();
        self.history.recover(found, committed);
    }

    async fn read(&mut self, before_end: u64) {
        let now = self.history.now();
        let (start, end) = (now.next_index().saturating_sub(before_end), now.next_index());
        let expected: Vec<_> = now.entries.range(start..end).map(|(_, entry)| entry.clone()).collect();
        assert_eq!(self.log.try_get_log_entries(start..end).await.unwrap(), expected);
        let limited = self.log.limited_get_log_entries(start, end).await.unwrap();
        assert!(expected.starts_with(&limited) && limited.is_empty() == expected.is_empty());
        assert_eq!(&Picture::read(&mut self.log).await, now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_leaves_a_moment_of_the_past_and_nothing_promised_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        logs::runtime().block_on(async {
            let mut run = Run::start();
            for step in steps {
                run.step(step).await;
            }
            run.step(Step::Read(u64::MAX)).await;
            run.step(Step::Reopen).await;
        });
    }

    #[test]
    fn the_memory_log_holds_what_the_model_holds(steps in prop::collection::vec(step(), 1..60)) {
        logs::runtime().block_on(async {
            let mut log = MemoryLog::default();
            let mut history = History { moments: vec![Picture::default()], promised: 0, committed: vec![None], term: 1 };
            for step in steps {
                match step {
                    Step::Append(sizes) => logs::append(&mut log, history.append(&sizes)).await.unwrap(),
                    Step::Truncate(count) => log.truncate_after(history.truncate(count)).await.unwrap(),
                    Step::Purge(before_end) => {
                        if let Some(upto) = history.purge(before_end) {
                            log.purge(upto).await.unwrap();
                        }
                    }
                    Step::Commit(before_end) => {
                        if let Some(committed) = history.commit(before_end) {
                            log.save_committed(Some(committed)).await.unwrap();
                            assert_eq!(log.read_committed().await.unwrap(), Some(committed));
                        }
                    }
                    Step::Vote | Step::Wait | Step::Read(_) | Step::Reopen | Step::Crash(_) => {}
                }
                assert_eq!(&Picture::read(&mut log).await, history.now());
            }
        });
    }
}
