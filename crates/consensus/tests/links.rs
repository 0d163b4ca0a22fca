//! Three members over ways that are long, slow, or dead without a word.

#![allow(clippy::unwrap_used, missing_docs)]

mod members;

use std::time::Duration;

use consensus::{Error, types::MemberId};
use members::{Cluster, eventually, get, set, soon, within};
use tokio::time::Instant;

const ALL: [u64; 3] = [1, 2, 3];

/// The two that do not lead.
fn followers(leader: u64) -> (u64, u64) {
    let mut others = ALL.into_iter().filter(|id| *id != leader);
    (others.next().unwrap(), others.next().unwrap())
}

async fn await_applied(cluster: &Cluster, id: u64, index: u64) {
    eventually("the member to have applied it", || async { cluster.member(id).status().applied_index >= index }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_lease_over_a_long_way() {
    const ONE_WAY: Duration = Duration::from_millis(60);
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.member(leader).status().term;
    cluster.hub.set_delay(ONE_WAY);
    // Longer than a lease and any election time-out, several times over.
    let until = Instant::now() + Duration::from_secs(4);
    let (mut reads, mut rounds) = (0, 0);
    while Instant::now() < until {
        let began = Instant::now();
        let read = cluster.member(leader).read(within(Duration::from_secs(1))).await.map(drop);
        assert_eq!(read, Ok(()), "after {reads} reads");
        reads += 1;
        // Under the lease nobody is asked.
        rounds += u32::from(began.elapsed() >= 2 * ONE_WAY);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rounds * 10 <= reads, "{rounds} of {reads} reads took a round");
    let status = cluster.member(leader).status();
    assert!(status.is_leader, "{status:?}");
    assert_eq!(status.term, term);
    let follower = followers(leader).0;
    cluster.member(follower).submit(set("k", "v"), soon()).await.unwrap();
    assert_eq!(get(cluster.member(follower), "k").await.as_deref(), Some(&b"v"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_entry_arrives_over_a_slow_way() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let before = cluster.hub.stream_bytes();
    cluster.hub.set_stream_rate(Some(3_000_000));
    let large = "x".repeat(10_000_000);
    let written = cluster.member(leader).submit(set("k", &large), within(Duration::from_secs(20))).await;
    assert!(written.is_ok(), "{written:?}");
    cluster.await_equal_states().await;
    let sent = cluster.hub.stream_bytes() - before;
    assert!(sent < 25_000_000, "10 MB for two followers became {sent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_without_a_word_is_replaced() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.member(leader).submit(set("k", "v"), soon()).await.unwrap();
    cluster.await_equal_states().await;
    cluster.hub.freeze_streams();
    let began = Instant::now();
    cluster.member(leader).submit(set("k", "w"), soon()).await.unwrap();
    cluster.await_equal_states().await;
    let silent = began.elapsed();
    assert!(silent < Duration::from_millis(2_500), "the followers had nothing for {silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_while_it_is_opened_is_replaced() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (lost, other) = followers(leader);
    cluster.member(leader).submit(set("k", "v"), soon()).await.unwrap();
    cluster.await_equal_states().await;
    cluster.hub.cut(MemberId::from(leader), MemberId::from(lost));
    let opened = cluster.hub.streams();
    cluster.hub.break_streams();
    cluster.member(other).submit(set("k", "w"), soon()).await.unwrap();
    eventually("both streams to be opened anew", || async { cluster.hub.streams() >= opened + 2 }).await;
    // What has been opened by now is dead; what is opened from now on works.
    cluster.hub.freeze_streams();
    cluster.hub.heal();
    let healed = Instant::now();
    await_applied(&cluster, lost, cluster.member(leader).status().last_index).await;
    let silent = healed.elapsed();
    assert!(silent < Duration::from_millis(2_500), "the follower had nothing for {silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_when_its_connection_has_died_without_a_word() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let large = "x".repeat(100_000);
    for n in 0..100 {
        cluster.member(leader).submit(set(&format!("k{n}"), &large), soon()).await.unwrap();
    }
    cluster.member(leader).checkpoint().await.unwrap();
    cluster.hub.set_stream_rate(Some(5_000_000));
    let before = cluster.hub.stream_bytes();
    let newcomer = cluster.add(4).await;
    eventually("a part of the snapshot", || async { cluster.hub.stream_bytes() > before + 4_000_000 }).await;
    cluster.hub.freeze_streams();
    await_applied(&cluster, newcomer, cluster.member(leader).status().last_index).await;
    cluster.await_equal_states().await;
    let sent = cluster.hub.stream_bytes() - before;
    assert!(sent < 13_000_000, "a resumed transfer of 10 MB took {sent} bytes");
}

/// How long behind the news of another leader a read ends that was with the old one, which is cut off. None when the
/// machine was so slow that the old one was replaced before it could be asked.
async fn lateness_of_a_read(cluster: &Cluster) -> Option<Duration> {
    let old = cluster.leader().await;
    let reader = cluster.member(followers(old).0).clone();
    cluster.hub.isolate(MemberId::from(old), &ALL.map(MemberId::from));
    let is_silent = || reader.staleness().is_some_and(|staleness| staleness >= Duration::from_millis(400));
    eventually("the leader to be silent", || async { is_silent() }).await;
    let is_replaced = || reader.status().leader.is_some_and(|leader| leader != MemberId::from(old));
    let read = tokio::spawn({
        let reader = reader.clone();
        async move {
            loop {
                match reader.read(soon()).await {
                    Ok(_) => return Instant::now(),
                    Err(error) => assert_eq!(error, Error::NoLeader),
                }
            }
        }
    });
    if is_replaced() {
        return None;
    }
    eventually("another leader", || async { is_replaced() }).await;
    let known = Instant::now();
    Some(read.await.unwrap().saturating_duration_since(known))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_goes_to_the_next_leader_as_soon_as_it_is_known() {
    let cluster = Cluster::start(3).await;
    for _ in 0..10 {
        if let Some(late) = lateness_of_a_read(&cluster).await {
            assert!(late < Duration::from_millis(500), "the read came {late:?} behind the news");
            return;
        }
        cluster.hub.heal();
    }
    panic!("the machine was too slow for this test, ten times");
}
