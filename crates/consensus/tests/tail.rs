//! What stays of the log behind a checkpoint, and whom it helps: members that lag a little, and members that were sent a
//! snapshot while the others wrote on.

#![allow(clippy::unwrap_used, missing_docs)]

mod durable;
mod logs;
mod members;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use consensus::{
    Group,
    env::System,
    log::{LocalLog as _, memory::MemoryLog},
    transport::{
        loopback::Hub,
        wire::{Frames, Route, Wire, WireError},
    },
    types::{MemberId, Peer},
};
use durable::Durable;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use members::{Cluster, bump, eventually, get, set, soon};
use openraft::{RaftLogReader as _, storage::RaftLogStorage as _};
use state::{apply::StateMachine, ids::Keyspace};
use storage::memory::MemoryEngine;

/// A tenth of a tail.
const VALUE_BYTES: usize = 10_000;
const TAIL_BYTES: u64 = 100_000;

fn value() -> String {
    "x".repeat(VALUE_BYTES)
}

/// Members with logs in memory that keep a tail.
struct Tailed {
    cluster: Cluster,
    logs: BTreeMap<u64, MemoryLog>,
}

async fn start_on(hub: &Hub, id: u64, log: MemoryLog, wire: impl Wire) -> Group<MemoryEngine> {
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Cache).unwrap();
    let group = Group::start(members::options(id), log, wire, machine, Arc::new(System::new())).await.unwrap();
    hub.join(&group);
    group
}

impl Tailed {
    async fn start<W: Wire>(count: u64, wire: impl Fn(&Hub) -> W, tail_bytes: u64) -> Self {
        let hub = Hub::default();
        let (mut groups, mut logs) = (BTreeMap::new(), BTreeMap::new());
        for id in 1..=count {
            let log = MemoryLog::new(tail_bytes);
            groups.insert(id, start_on(&hub, id, log.clone(), wire(&hub)).await);
            logs.insert(id, log);
        }
        let voters: BTreeMap<MemberId, Peer> = (1..=count).map(|id| (MemberId::from(id), Peer::default())).collect();
        for group in groups.values() {
            group.found(voters.clone()).await.unwrap();
        }
        let cluster = Cluster { hub, groups };
        cluster.leader().await;
        Self { cluster, logs }
    }

    /// The leader, which is made another one than this.
    async fn leader_other_than(&self, id: u64) -> u64 {
        let leader = self.cluster.leader().await;
        if leader != id {
            return leader;
        }
        self.cluster.member(leader).transfer(MemberId::from(other_than(id)), Duration::from_secs(10)).await.unwrap();
        self.cluster.leader().await
    }

    /// Writes through the leader, each value followed by a checkpoint.
    async fn write(&self, leader: u64, values: usize) {
        for n in 0..values {
            self.cluster.member(leader).submit(set(&format!("k{}", n % 7), &value()), soon()).await.unwrap();
            self.cluster.member(leader).checkpoint().await.unwrap();
        }
    }

    fn isolate(&self, id: u64) {
        let all: Vec<MemberId> = self.cluster.groups.keys().map(|id| MemberId::from(*id)).collect();
        self.cluster.hub.isolate(MemberId::from(id), &all);
    }

    /// What the member's log holds: its first index, and about how many bytes of values.
    async fn held(&self, id: u64) -> (u64, usize) {
        let entries = self.logs[&id].clone().try_get_log_entries(..).await.unwrap();
        (entries.first().map_or(0, |entry| entry.log_id.index), entries.len() * VALUE_BYTES)
    }
}

fn other_than(leader: u64) -> u64 {
    if leader == 1 { 2 } else { 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_within_the_tail_needs_no_snapshot() {
    let tailed = Tailed::start(3, Hub::clone, TAIL_BYTES).await;
    let leader = tailed.cluster.leader().await;
    let away = other_than(leader);
    tailed.write(leader, 20).await;
    tailed.isolate(away);
    tailed.write(leader, 6).await;
    let applied = tailed.cluster.member(away).status().applied_index;
    let (first, _) = tailed.held(leader).await;
    assert!(1 < first && first <= applied, "the log was purged to {first}, and not past {applied}");
    tailed.cluster.hub.heal();
    tailed.cluster.await_equal_states().await;
    assert_eq!(tailed.cluster.member(away).installs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_for_longer_gets_one_snapshot() {
    let tailed = Tailed::start(3, Hub::clone, TAIL_BYTES).await;
    let leader = tailed.cluster.leader().await;
    let away = other_than(leader);
    tailed.isolate(away);
    eventually("the log to be purged past the one that is away", || async {
        tailed.write(leader, 10).await;
        tailed.held(leader).await.0 > tailed.cluster.member(away).status().applied_index + 1
    })
    .await;
    tailed.cluster.hub.heal();
    tailed.cluster.await_equal_states().await;
    assert_eq!(tailed.cluster.member(away).installs(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_finds_the_disk_full_is_installed_when_there_is_room() {
    let mut durable = Durable::start(3, TAIL_BYTES).await;
    let leader = durable.leader().await;
    let away = durable.others(leader)[0];
    durable.crash(away, None).await;
    for n in 0..200 {
        durable.group(leader).submit(set(&format!("k{n}"), &value()), soon()).await.unwrap();
    }
    durable.group(leader).checkpoint().await.unwrap();
    let disk = durable.disks[&away].clone();
    // Room for another segment of the log, and not for the state.
    disk.set_capacity(Some(disk.used_bytes() + 1_500_000));
    durable.restart(away).await;
    eventually("the member to find its disk full", || async { durable.group(away).is_disk_full() }).await;
    assert_eq!(durable.group(away).installs(), 0);

    disk.set_capacity(None);
    durable.await_equal_states().await;
    eventually("writes to go on", || async { !durable.group(away).is_disk_full() }).await;
    assert_eq!(durable.group(away).installs(), 1);
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_is_bounded_on_every_member_and_one_alone_keeps_none() {
    let tailed = Tailed::start(3, Hub::clone, TAIL_BYTES).await;
    let leader = tailed.cluster.leader().await;
    tailed.write(leader, 50).await;
    tailed.cluster.await_equal_states().await;
    for (id, group) in &tailed.cluster.groups {
        group.checkpoint().await.unwrap();
        let (first, bytes) = tailed.held(*id).await;
        let bound = TAIL_BYTES as usize;
        assert!(first > 1 && bytes > bound / 2 && bytes <= bound, "{bytes} bytes from {first} on");
    }
    let alone = Tailed::start(1, Hub::clone, TAIL_BYTES).await;
    alone.write(1, 50).await;
    alone.cluster.member(1).checkpoint().await.unwrap();
    assert_eq!(alone.held(1).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_gets_a_snapshot_once_and_then_the_log() {
    let mut tailed = Tailed::start(3, Hub::clone, TAIL_BYTES).await;
    let leader = tailed.cluster.leader().await;
    tailed.write(leader, 30).await;
    let log = MemoryLog::new(TAIL_BYTES);
    let learner = start_on(&tailed.cluster.hub, 4, log.clone(), tailed.cluster.hub.clone()).await;
    tailed.cluster.groups.insert(4, learner);
    tailed.logs.insert(4, log);
    tailed.cluster.member(leader).add_learner(MemberId::from(4), Peer::default()).await.unwrap();
    tailed.cluster.await_equal_states().await;
    for _ in 0..3 {
        tailed.isolate(4);
        tailed.write(leader, 6).await;
        tailed.cluster.hub.heal();
        tailed.cluster.await_equal_states().await;
    }
    assert_eq!(tailed.cluster.member(4).installs(), 1);
    // Its own log is as long as the others': it may lead one day.
    tailed.cluster.member(4).checkpoint().await.unwrap();
    assert!(tailed.held(4).await.1 <= TAIL_BYTES as usize);
}

/// A wire on which large frames take their time.
#[derive(Clone)]
struct Slow {
    hub: Hub,
    pause: Duration,
    /// To this member alone.
    to: u64,
}

impl Wire for Slow {
    async fn call(&self, at: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        self.hub.call(at, route, message, wait_max).await
    }

    async fn stream(&self, at: &str, route: Route, frames: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        let pause = if route.to == MemberId::from(self.to) { self.pause } else { Duration::ZERO };
        let frames = stream::unfold(frames, move |mut frames| async move {
            let frame = frames.next().await?;
            if frame.len() > 200_000 {
                tokio::time::sleep(pause).await;
            }
            Some((frame, frames))
        });
        self.hub.stream(at, route, frames.boxed()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_takes_longer_than_the_tail_lasts_is_followed_by_the_log() {
    let away = 3;
    // The pieces of a snapshot are large and full; entries here are small.
    let slow = |hub: &Hub| Slow { hub: hub.clone(), pause: Duration::from_millis(100), to: away };
    let tailed = Tailed::start(3, slow, TAIL_BYTES).await;
    let leader = tailed.leader_other_than(away).await;
    tailed.isolate(away);
    for n in 0..500 {
        tailed.cluster.member(leader).submit(set(&format!("large{n}"), &value()), soon()).await.unwrap();
    }
    tailed.cluster.member(leader).checkpoint().await.unwrap();

    // More than a tail is written while 5 MB are on their way, with a checkpoint every now and then.
    let end = Arc::new(AtomicBool::new(false));
    let (group, ended) = (tailed.cluster.member(leader).clone(), end.clone());
    let writer = tokio::spawn(async move {
        let mut writes = 0;
        while !ended.load(Ordering::Relaxed) {
            group.submit(set(&format!("k{}", writes % 7), &value()), soon()).await.unwrap();
            writes += 1;
            if writes % 10 == 0 {
                group.checkpoint().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        writes
    });
    let before = tailed.cluster.member(leader).status().last_index;
    tailed.cluster.hub.heal();
    eventually("the follower to come near the leader", || async {
        let (follower, leader) = (tailed.cluster.member(away).status(), tailed.cluster.member(leader).status());
        tailed.cluster.member(away).installs() > 0 && follower.applied_index + 3 > leader.applied_index
    })
    .await;
    let written = tailed.cluster.member(leader).status().last_index - before;
    end.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    tailed.cluster.await_equal_states().await;
    assert!(written * VALUE_BYTES as u64 > 2 * TAIL_BYTES, "only {written} values were written meanwhile");
    assert_eq!(tailed.cluster.member(away).installs(), 1, "one snapshot, and the log from there on");
    assert!(tailed.held(leader).await.1 <= 20 * TAIL_BYTES as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_slower_than_the_others_does_not_make_their_logs_grow_without_end() {
    const LARGE_BYTES: usize = 1_000_000;
    let slow = 3;
    let wire = |hub: &Hub| Slow { hub: hub.clone(), pause: Duration::from_millis(300), to: slow };
    let tailed = Tailed::start(3, wire, TAIL_BYTES).await;
    let leader = tailed.leader_other_than(slow).await;
    let large = "x".repeat(LARGE_BYTES);
    for n in 0..60 {
        tailed.cluster.member(leader).submit(set(&format!("k{}", n % 3), &large), soon()).await.unwrap();
    }
    // No checkpoint before: it waits for the log to be purged, and so for the slow one.
    // Behind the bound it takes a snapshot, while it would still be sent the first of the entries.
    eventually("the log to be purged past the slow one", || async {
        tailed.cluster.member(leader).checkpoint().await.unwrap();
        tailed.held(leader).await.1 / VALUE_BYTES * LARGE_BYTES < (18 << 20)
    })
    .await;
    let sent_all =
        tailed.cluster.member(slow).status().applied_index + 20 > tailed.cluster.member(leader).status().last_index;
    assert!(!sent_all || tailed.cluster.member(slow).installs() > 0, "the slow one was too quick for this test");
    tailed.cluster.await_equal_states().await;
    assert!(tailed.cluster.member(slow).installs() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_crash_start_again_on_logs_with_a_tail() {
    let mut durable = Durable::start(3, 300_000).await;
    let leader = durable.leader().await;
    let lost = durable.others(leader)[0];
    for n in 0..60 {
        durable.group(leader).submit(set(&format!("k{n}"), &value()), soon()).await.unwrap();
        if n % 10 == 9 {
            for id in [1, 2, 3] {
                durable.group(id).checkpoint().await.unwrap();
            }
        }
        if n == 50 {
            durable.crash(lost, Some(7)).await;
            durable.group(leader).checkpoint().await.unwrap();
            durable.restart(lost).await;
        }
    }
    durable.await_equal_states().await;
    let purged = durable.running[&leader].log.clone().get_log_state().await.unwrap().last_purged_log_id;
    assert!(purged.is_some_and(|purged| purged.index > 10), "{purged:?}");
    assert!(durable.running[&leader].log.tail_start(300_000) > 10);
    assert_eq!(durable.group(lost).installs(), 0, "it was away for less than the tail");

    // All of them at once: each is what its checkpoint left, and the log from there on.
    durable.group(leader).submit(bump("n"), soon()).await.unwrap();
    let hash = durable.hash(leader);
    for id in [1, 2, 3] {
        durable.crash(id, Some(id)).await;
    }
    for id in [1, 2, 3] {
        durable.restart(id).await;
    }
    let leader = durable.leader().await;
    assert_eq!(get(durable.group(leader), "n").await.as_deref(), Some(&b"1"[..]));
    durable.await_equal_states().await;
    assert_eq!(durable.hash(leader), hash);
    durable.stop().await;
}
