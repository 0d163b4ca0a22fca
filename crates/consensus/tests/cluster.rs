//! Three members over a wire inside the process: what one acknowledges, all have.

#![allow(clippy::unwrap_used, missing_docs)]

mod members;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use consensus::{Error, Options, types::MemberId};
use members::{Cluster, bump, get, set, soon, within};
use state::outcome::{DataOutcome, Outcome};

const A: u64 = 1;
const B: u64 = 2;
const C: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_any_member_is_read_through_all() {
    let cluster = Cluster::start(3).await;
    for (n, through) in [A, B, C, A, B, C].into_iter().enumerate() {
        let key = format!("k{n}");
        let outcome = cluster.member(through).submit(set(&key, "v"), soon()).await.unwrap();
        assert!(matches!(outcome, Outcome::Data(DataOutcome { result: Ok(None), .. })), "{outcome:?}");
        for reader in [A, B, C] {
            assert_eq!(get(cluster.member(reader), &key).await.as_deref(), Some(&b"v"[..]), "{key} through {reader}");
        }
    }
    cluster.await_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_writes_of_the_leader_that_has_it_and_no_follower_from_passing_them_on() {
    let full = Arc::new(AtomicU64::new(0));
    let asked = full.clone();
    let cluster = Cluster::start_with(3, move |id| {
        let asked = asked.clone();
        Options { log_disk_full: Arc::new(move || asked.load(Ordering::Relaxed) == id), ..members::options(id) }
    })
    .await;
    let leader = cluster.leader().await;
    let follower = [A, B, C].into_iter().find(|id| *id != leader).unwrap();
    full.store(follower, Ordering::Relaxed);
    cluster.member(follower).submit(set("k", "v"), soon()).await.unwrap();
    full.store(leader, Ordering::Relaxed);
    for through in [leader, follower] {
        assert_eq!(cluster.member(through).submit(set("k", "w"), soon()).await, Err(Error::DiskFull));
    }
    full.store(0, Ordering::Relaxed);
    assert_eq!(get(cluster.member(follower), "k").await.as_deref(), Some(&b"v"[..]));
    cluster.member(follower).submit(set("k", "w"), soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bumps_from_all_members_are_each_applied_once() {
    let cluster = Cluster::start(3).await;
    let mut bumps = Vec::new();
    for n in 0..900 {
        let group = cluster.member(1 + n % 3).clone();
        bumps.push(tokio::spawn(async move { group.submit(bump("n"), soon()).await }));
    }
    let mut sums = Vec::new();
    for bump in bumps {
        match bump.await.unwrap().unwrap() {
            Outcome::Data(DataOutcome { result: Ok(Some(sum)), .. }) => sums.push(sum),
            other => panic!("{other:?}"),
        }
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=900).collect::<Vec<i64>>());
    cluster.await_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_death_costs_no_acknowledged_write_and_less_than_a_second() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = [A, B, C].into_iter().find(|id| *id != leader).unwrap();
    for n in 0..50 {
        cluster.member(leader).submit(set(&format!("k{n}"), "v"), soon()).await.unwrap();
    }
    cluster.stop(leader).await;
    let dead_since = tokio::time::Instant::now();
    cluster.member(survivor).submit(set("after", "v"), soon()).await.unwrap();
    let silent = dead_since.elapsed();
    assert!(silent < Duration::from_secs(1), "no write went on for {silent:?}");
    for n in 0..50 {
        assert!(get(cluster.member(survivor), &format!("k{n}")).await.is_some(), "k{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_serves_nothing_and_its_followers_go_on() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let other = [A, B, C].into_iter().find(|id| *id != old).unwrap();
    cluster.member(old).submit(set("k", "before"), soon()).await.unwrap();
    cluster.hub.isolate(MemberId::from(old), &[A, B, C].map(MemberId::from));
    // A write that went to the old one is lost, and said to be unknown.
    members::eventually("a write under another leader", || async {
        match cluster.member(other).submit(set("k", "after"), soon()).await {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, Error::OutcomeUnknown);
                false
            }
        }
    })
    .await;
    // What the old one still answered would be stale.
    let refused = cluster.member(old).read(within(Duration::from_millis(500))).await.map(drop);
    assert!(matches!(refused, Err(Error::NoLeader | Error::NoQuorum)), "{refused:?}");
    let unheard = cluster.member(old).submit(set("k", "lost"), within(Duration::from_millis(500))).await;
    assert!(unheard.is_err(), "{unheard:?}");
    cluster.hub.heal();
    assert_eq!(get(cluster.member(old), "k").await.as_deref(), Some(&b"after"[..]));
    cluster.await_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_heard_and_hears_nothing_is_replaced() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = [A, B, C].into_iter().filter(|id| *id != old).collect();
    for other in &others {
        cluster.hub.cut(MemberId::from(*other), MemberId::from(old));
    }
    // Entries under way whose acknowledgement never comes: the old leader sends them again and again.
    let stranded = cluster.member(old).submit(set("k", "before"), within(Duration::from_millis(200))).await;
    assert!(matches!(stranded, Err(Error::OutcomeUnknown)), "{stranded:?}");
    // A write that went to the old leader is lost, and said to be unknown.
    members::eventually("a write under another leader", || async {
        cluster.member(others[0]).submit(set("k", "after"), soon()).await.is_ok()
    })
    .await;
    assert_eq!(get(cluster.member(others[1]), "k").await.as_deref(), Some(&b"after"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_through_a_leader_that_has_stopped_waits_for_the_next() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    cluster.member(old).submit(set("k", "v"), soon()).await.unwrap();
    // It answers its peers for as long as its process lives.
    cluster.member(old).shutdown().await;
    let other = [A, B, C].into_iter().find(|id| *id != old).unwrap();
    assert_eq!(get(cluster.member(other), "k").await.as_deref(), Some(&b"v"[..]));
    assert_ne!(cluster.member(other).status().leader, Some(MemberId::from(old)));
}

/// An election takes silence. Entries that nobody acknowledges would break it about once a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_sends_no_entries_in_its_silence() {
    let election_timeout = Duration::from_millis(500);
    let (lease, turn) = (2 * election_timeout, 6 * election_timeout);
    // The followers stand by it: only its own silence is looked at.
    let timing = |id| match id {
        A => Options { election_timeout, ..members::options(id) },
        _ => Options { election_timeout: Duration::from_secs(60), ..members::options(id) },
    };
    let cluster = Cluster::start_with(3, timing).await;
    let old = cluster.member(cluster.leader().await);
    assert_eq!(old.member(), MemberId::from(A), "the others take a minute");
    for other in [B, C] {
        cluster.hub.cut(MemberId::from(other), MemberId::from(A));
    }
    let stranded = old.submit(set("k", "v"), within(Duration::from_millis(200))).await;
    assert!(matches!(stranded, Err(Error::OutcomeUnknown)), "{stranded:?}");

    let age = || old.quorum_age().unwrap();
    members::eventually("the lease to have ended", || async { age() > lease + election_timeout / 5 }).await;
    let streams = cluster.hub.streams();
    members::eventually("the end of the silence", || async {
        let now = cluster.hub.streams();
        let age = age();
        assert!(now == streams || age >= lease + turn, "a stream was opened at {age:?}");
        age >= lease + turn
    })
    .await;
    members::eventually("its entries to be sent again", || async { cluster.hub.streams() > streams }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_long_disturbs_nobody_when_it_returns() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let away = [A, B, C].into_iter().find(|id| *id != leader).unwrap();
    let term = cluster.member(leader).status().term;
    cluster.hub.isolate(MemberId::from(away), &[A, B, C].map(MemberId::from));
    // Many elections long, by the clock that times them.
    members::eventually("the member to have heard nothing for long", || async {
        cluster.member(away).staleness().is_some_and(|age| age > 16 * members::options(away).election_timeout)
    })
    .await;
    cluster.member(leader).submit(set("k", "v"), soon()).await.unwrap();
    cluster.hub.heal();
    assert_eq!(get(cluster.member(away), "k").await.as_deref(), Some(&b"v"[..]));
    assert_eq!(cluster.member(leader).status().term, term);
    assert!(cluster.member(leader).status().is_leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_everything_behind_a_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let lost = [A, B, C].into_iter().find(|id| *id != leader).unwrap();
    let large = "x".repeat(100_000);
    for n in 0..100 {
        cluster.member(leader).submit(set(&format!("k{n}"), &large), soon()).await.unwrap();
    }
    cluster.stop(lost).await;
    cluster.member(leader).checkpoint().await.unwrap();
    let before = cluster.hub.stream_bytes();
    let newcomer = cluster.add(4).await;
    // Break the transfer in its middle, twice: it goes on where it broke.
    for share in [1, 2] {
        let hub = cluster.hub.clone();
        members::eventually("a part of the snapshot", || {
            let arrived = hub.stream_bytes() - before;
            async move { arrived > share * 3_000_000 }
        })
        .await;
        cluster.hub.break_streams();
    }
    for n in 0..50 {
        cluster.member(leader).submit(bump("n"), soon()).await.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    members::eventually("the newcomer to have caught up", || async {
        let target = cluster.member(leader).status().applied_index;
        cluster.member(newcomer).status().applied_index >= target
    })
    .await;
    assert_eq!(cluster.hash(newcomer), cluster.hash(leader));
    let arrived = cluster.hub.stream_bytes() - before;
    assert!(arrived < 14_000_000, "a resumed transfer of 10 MB took {arrived} bytes");
}
