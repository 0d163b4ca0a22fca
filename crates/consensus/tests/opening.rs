//! Where log and state stand after a crash, and which of it a group starts on.

#![allow(clippy::unwrap_used, missing_docs)]

mod durable;
mod logs;
mod members;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use consensus::types::{MemberId, Peer};
use durable::Durable;
use members::{bump, eventually, get, set, soon};
use openraft::storage::RaftLogStorage as _;
use storage::fs::{Disk as _, faulty::FaultyDisk};

const NEWCOMER: u64 = 9;

fn remove(disk: &FaultyDisk, dir: &str) {
    for name in disk.list(Path::new(dir)).unwrap() {
        disk.remove(&Path::new(dir).join(name)).unwrap();
    }
}

async fn write_and_purge(durable: &Durable, leader: u64, key: &str) {
    for n in 0..5 {
        durable.group(leader).submit(set(&format!("{key}{n}"), "v"), soon()).await.unwrap();
    }
    durable.group(leader).checkpoint().await.unwrap();
}

async fn await_caught_up(durable: &Durable, leader: u64) {
    eventually("the newcomer to have caught up", || async { is_caught_up(durable, leader) }).await;
}

fn is_caught_up(durable: &Durable, leader: u64) -> bool {
    let applied = |id| durable.group(id).local().applied().unwrap().position;
    applied(NEWCOMER) == applied(leader)
}

/// Writes what the newcomer, which is cut off, needs a snapshot for.
async fn write_out_of_reach(durable: &Durable, leader: u64) {
    durable.isolate(NEWCOMER);
    write_and_purge(durable, leader, "k").await;
    // openraft purges nothing that it is just sending, even to one that cannot be reached: with that, no snapshot were needed.
    let last = durable.group(NEWCOMER).status().last_index;
    eventually("the leader's log to begin behind what the member has", || async {
        durable.group(leader).checkpoint().await.unwrap();
        let purged = durable.running[&leader].log.clone().get_log_state().await.unwrap().last_purged_log_id;
        purged.is_some_and(|purged| purged.index > last)
    })
    .await;
}

/// A member that needs a snapshot gets one, and crashes instead of the operation that comes after so many; then it
/// starts again, and comes to the others' state. Answers how many operations there were, and whether it crashed.
async fn install_and_crash(durable: &mut Durable, leader: u64, operations: u64) -> (u64, bool) {
    let torn = (!operations.is_multiple_of(3)).then_some(operations);
    durable.disks.insert(NEWCOMER, FaultyDisk::new());
    durable.restart(NEWCOMER).await;
    durable.group(leader).add_learner(MemberId::from(NEWCOMER), Peer::default()).await.unwrap();
    await_caught_up(durable, leader).await;
    // Some entries of its own behind the first snapshot, then some that it needs another snapshot for.
    durable.group(leader).submit(bump("n"), soon()).await.unwrap();
    await_caught_up(durable, leader).await;
    let done = loop {
        write_out_of_reach(durable, leader).await;
        let member = &durable.running[&NEWCOMER];
        let (installs, before) = (member.group.installs(), member.session.operations());
        let last = member.group.status().last_index;
        member.session.crash_after(operations, torn);
        durable.hub.heal();
        let gone_on = || async {
            let purged = member.log.clone().get_log_state().await.ok().and_then(|state| state.last_purged_log_id);
            // The snapshot is behind all that it had. More may follow it already: the first entry of another leader, say.
            let installed = member.group.installs() > installs && purged.is_some_and(|purged| purged.index > last);
            let is_late = member.group.installs() == installs && is_caught_up(durable, leader);
            (member.session.has_crashed() || installed, is_late)
        };
        eventually("the snapshot to be installed, or the crash", || async { gone_on().await != (false, false) }).await;
        // What the leader had in its hands when the member was cut off may still arrive, and be all that it lacks: again, then.
        if gone_on().await.0 {
            break (member.session.operations() - before, member.session.has_crashed());
        }
    };
    durable.crash(NEWCOMER, torn).await;
    durable.restart(NEWCOMER).await;
    await_caught_up(durable, leader).await;
    assert_eq!(durable.hash(NEWCOMER), durable.hash(leader), "after a crash at operation {operations}");
    durable.group(leader).remove_learner(MemberId::from(NEWCOMER)).await.unwrap();
    durable.crash(NEWCOMER, None).await;
    done
}

/// Most operations write the new store's file, and one is like another; the last ones rename it and purge the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_moment_of_an_installation_leaves_what_a_start_goes_on_from() {
    const EACH: u64 = 16;
    let mut durable = Durable::start(2, 0).await;
    let leader = durable.leader().await;
    write_and_purge(&durable, leader, "k").await;
    let (operations, crashed) = install_and_crash(&mut durable, leader, u64::MAX).await;
    assert!(operations > EACH && !crashed, "{operations} operations");
    let mut crashes = 0;
    let last = operations - EACH;
    for operations in (0..last).step_by(8).chain(last..=operations) {
        crashes += u64::from(install_and_crash(&mut durable, leader, operations).await.1);
    }
    assert!(crashes >= EACH, "{crashes} crashes");
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_came_by_a_snapshot_and_has_led_starts_again_after_a_crash() {
    let mut durable = Durable::start(1, 0).await;
    write_and_purge(&durable, 1, "k").await;
    durable.disks.insert(NEWCOMER, FaultyDisk::new());
    durable.restart(NEWCOMER).await;
    let newcomer = MemberId::from(NEWCOMER);
    durable.group(1).add_learner(newcomer, Peer::default()).await.unwrap();
    await_caught_up(&durable, 1).await;
    assert_eq!(durable.group(NEWCOMER).installs(), 1);
    durable.group(1).set_voters([MemberId::from(1), newcomer].into()).await.unwrap();
    durable.group(1).transfer(newcomer, Duration::from_secs(5)).await.unwrap();
    durable.group(NEWCOMER).submit(set("k", "v"), soon()).await.unwrap();
    // Its state is durable up to the snapshot, from before it was taken in; the log knows better.
    durable.crash(NEWCOMER, None).await;
    durable.restart(NEWCOMER).await;
    durable.await_equal_states().await;
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_does_not_come_ahead_of_a_log_whose_disk_is_slow() {
    let mut durable = Durable::start(3, 1 << 20).await;
    let leader = durable.leader().await;
    let slow = durable.others(leader)[0];
    durable.group(leader).submit(bump("n"), soon()).await.unwrap();
    durable.await_equal_states().await;
    durable.running[&slow].session.hold_syncs();
    for _ in 0..10 {
        durable.group(leader).submit(bump("n"), soon()).await.unwrap();
    }
    // Committed by the others, it is applied here too.
    durable.await_equal_states().await;
    let group = durable.group(slow).clone();
    let checkpoint = tokio::time::timeout(Duration::from_secs(1), group.checkpoint()).await;
    durable.crash(slow, None).await;
    assert!(checkpoint.is_err(), "the log is not durable as far as the state has come");
    drop(group);
    durable.restart(slow).await;
    durable.await_equal_states().await;
    assert_eq!(get(durable.group(slow), "n").await.as_deref(), Some(&b"11"[..]));
    durable.stop().await;
}

/// What a member has promised a leader it forgets when it ends: so it waits until that has run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_start_again_elect_nobody_within_a_lease() {
    let election_timeout = Duration::from_secs(1);
    let mut durable = Durable::start_with(3, 1 << 20, election_timeout).await;
    for id in [1, 2, 3] {
        durable.crash(id, None).await;
    }
    let begun = Instant::now();
    for id in [1, 2, 3] {
        durable.restart(id).await;
    }
    let leads = || durable.running.values().any(|member| member.group.status().is_leader);
    eventually("a leader", || async { leads() }).await;
    let waited = begun.elapsed();
    assert!(waited >= 2 * election_timeout, "a leader was elected after {waited:?}");
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_and_a_lost_store_are_refused() {
    let mut durable = Durable::start(1, 0).await;
    write_and_purge(&durable, 1, "k").await;
    durable.crash(1, None).await;
    let disk = durable.disks[&1].clone();
    remove(&disk, "/data/log");
    let refused = durable::start(&disk, durable::options(1), 0, durable.hub.clone()).await.map(drop).unwrap_err();
    assert!(refused.contains("ends before what the store holds"), "{refused}");

    let mut durable = Durable::start(1, 0).await;
    write_and_purge(&durable, 1, "k").await;
    // With this the purge is durable: before, the log alone would bring everything back.
    durable.group(1).submit(bump("n"), soon()).await.unwrap();
    durable.crash(1, None).await;
    let disk = durable.disks[&1].clone();
    remove(&disk, "/data/store");
    let refused = durable::start(&disk, durable::options(1), 0, durable.hub.clone()).await.map(drop).unwrap_err();
    assert!(refused.contains("begins behind what the store holds"), "{refused}");
}

/// A member that founded a second group on a copy of its permission meets the first one, which has entries for it, or
/// only a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_committed_something_else_ends_before_it_takes_anything() {
    for tail_bytes in [1 << 20, 0] {
        let mut durable = Durable::start(3, tail_bytes).await;
        durable.group(1).submit(set("k", "first"), soon()).await.unwrap();
        durable.await_equal_states().await;
        durable.crash(1, None).await;
        // Another term, and as many entries as the second group will have.
        let leader = durable.leader().await;
        durable.group(leader).transfer(MemberId::from(5 - leader), Duration::from_secs(5)).await.unwrap();
        let leader = durable.leader().await;
        write_and_purge(&durable, leader, "k").await;

        let mut second = Durable::without_members(tail_bytes);
        second.restart(1).await;
        second.group(1).found([(MemberId::from(1), Peer::default())].into()).await.unwrap();
        for _ in 0..40 {
            second.group(1).submit(bump("n"), soon()).await.unwrap();
        }
        let before = second.hash(1);
        durable.hub.join(second.group(1));

        let fault = tokio::time::timeout(Duration::from_secs(20), second.group(1).fault()).await.unwrap();
        assert!(fault.contains("this data directory is a copy"), "{fault}");
        assert_eq!(second.hash(1), before, "nothing of the first group is applied");
        durable.group(leader).submit(bump("n"), soon()).await.unwrap();
        second.stop().await;
        durable.stop().await;
    }
}
