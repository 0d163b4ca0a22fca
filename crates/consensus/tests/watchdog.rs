//! A disk that stands still below a log: its member stops leading, and nothing is lost by it.

#![allow(clippy::unwrap_used, missing_docs)]

mod durable;
mod logs;
mod members;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use consensus::{Group, log::LocalLog as _, types::MemberId};
use durable::Durable;
use members::{bump, eventually, get, set, soon, within};
use state::{
    ids::ScopeId,
    kv::Key,
    outcome::{DataOutcome, Outcome},
};
use storage::disk::DiskEngine;

/// What a client saw of its bumps.
#[derive(Default)]
struct Seen {
    acknowledged: i64,
    unknown: i64,
    /// The longest time without an acknowledgement.
    longest_silence: Duration,
}

/// Bumps `n` through a member until told to end.
async fn bump_on(group: Group<DiskEngine>, end: Arc<AtomicBool>) -> Seen {
    let (mut seen, mut last) = (Seen::default(), Instant::now());
    while !end.load(Ordering::Relaxed) {
        match group.submit(bump("n"), within(Duration::from_secs(5))).await {
            Ok(Outcome::Data(DataOutcome { result: Ok(Some(_)), .. })) => seen.acknowledged += 1,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                seen.unknown += 1;
                continue;
            }
        }
        seen.longest_silence = seen.longest_silence.max(last.elapsed());
        last = Instant::now();
    }
    seen
}

fn number(value: Option<Vec<u8>>) -> i64 {
    String::from_utf8(value.unwrap()).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_is_followed_by_another_and_nothing_is_lost() {
    let durable = Durable::start(3, 1 << 20).await;
    let old = durable.leader().await;
    let other = durable.others(old)[0];
    let end = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(bump_on(durable.group(other).clone(), end.clone()));
    eventually("some bumps", || async { durable.group(other).status().applied_index > 20 }).await;

    let session = &durable.running[&old].session;
    let syncs = session.syncs();
    session.hold_syncs();
    session.wait_for_held_sync(syncs);
    let stalled_at = Instant::now();
    eventually("another leader", || async {
        durable.group(other).status().leader.is_some_and(|leader| leader != MemberId::from(old))
    })
    .await;
    let led_for = stalled_at.elapsed();
    assert!(led_for < Duration::from_secs(2), "the old leader stayed for {led_for:?}");

    // Under the new one writes go on; what the old one still answered would be stale.
    durable.group(other).submit(set("k", "new"), soon()).await.unwrap();
    if let Ok(reader) = durable.group(old).read(within(Duration::from_millis(500))).await {
        let stored = reader.get(ScopeId::ROOT, &Key::new("k", 100).unwrap()).unwrap();
        assert!(stored.is_some(), "a stale read");
    }

    session.release_syncs();
    end.store(true, Ordering::Relaxed);
    let seen = writer.await.unwrap();
    assert!(seen.longest_silence < Duration::from_secs(2), "no write for {:?}", seen.longest_silence);
    durable.await_equal_states().await;
    let sum = number(get(durable.group(other), "n").await);
    assert!((seen.acknowledged..=seen.acknowledged + seen.unknown).contains(&sum), "{sum} of {}", seen.acknowledged);

    // It takes part again.
    let leader = durable.leader().await;
    durable.group(leader).transfer(MemberId::from(old), Duration::from_secs(5)).await.unwrap();
    durable.group(other).submit(bump("n"), soon()).await.unwrap();
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_disk_stalls_nobody_is_better_off_and_the_leader_stays() {
    // Members that cannot write do not answer either: by its usual time-outs another might well be elected behind the stall.
    let durable = Durable::start_with(3, 1 << 20, Duration::from_secs(3)).await;
    let leader = durable.leader().await;
    durable.group(leader).submit(bump("n"), soon()).await.unwrap();
    let term = durable.group(leader).status().term;
    for member in durable.running.values() {
        member.session.hold_syncs();
    }
    let group = durable.group(leader).clone();
    let write = tokio::spawn(async move { group.submit(bump("n"), soon()).await });
    let group = durable.group(leader).clone();
    let log = durable.running[&leader].log.clone();
    eventually("a long stall", || async { log.stalled_for() > Duration::from_secs(2) }).await;
    assert!(!write.is_finished(), "no disk has it");
    // The leader's first: while another's disk works and its own does not, it would rightly hand over.
    durable.running[&leader].session.release_syncs();
    eventually("the leader's disk to work", || async { log.stalled_for() == Duration::ZERO }).await;
    for member in durable.running.values() {
        member.session.release_syncs();
    }
    write.await.unwrap().unwrap();
    assert_eq!((group.status().term, group.status().is_leader), (term, true));
    assert_eq!(number(get(&group, "n").await), 2);
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_alone_waits_for_its_disk() {
    let durable = Durable::start(1, 1 << 20).await;
    let group = durable.group(1).clone();
    durable.running[&1].session.hold_syncs();
    let writer = group.clone();
    let write = tokio::spawn(async move { writer.submit(bump("n"), soon()).await });
    let log = durable.running[&1].log.clone();
    eventually("a stall", || async { log.stalled_for() > Duration::from_millis(1_500) }).await;
    assert!(!write.is_finished(), "no disk has it");
    durable.running[&1].session.release_syncs();
    write.await.unwrap().unwrap();
    group.submit(bump("n"), soon()).await.unwrap();
    assert_eq!(number(get(&group, "n").await), 2);
    durable.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_ends_the_member_with_the_reason() {
    let mut durable = Durable::start(1, 1 << 20).await;
    let group = durable.group(1).clone();
    durable.running[&1].session.fail_syncs(true);
    assert!(group.submit(bump("n"), soon()).await.is_err(), "it is not durable");
    let fault = tokio::time::timeout(Duration::from_secs(10), group.fault()).await.expect("a fault that is told");
    assert!(fault.contains("sync"), "{fault}");
    drop(group);
    durable.crash(1, None).await;
}
