//! The bound on what a group's state holds in memory: the leader's to keep, whoever takes the writes.

#![allow(clippy::unwrap_used, missing_docs)]

mod members;

use std::collections::BTreeMap;

use consensus::{Error, Options, transport::loopback::Hub, types::MemberId};
use members::{Cluster, get, set, soon};

const BYTES_MAX: u64 = 100_000;
/// With a key of four bytes: a hundred of them fill the state.
const VALUE_BYTES: usize = 996;

async fn start() -> Cluster {
    let hub = Hub::default();
    let mut groups = BTreeMap::new();
    for id in 1..=3 {
        let options = Options { state_bytes_max: BYTES_MAX, ..members::options(id) };
        groups.insert(id, members::start(&hub, options).await);
    }
    let voters: BTreeMap<MemberId, _> = (1..=3).map(|id| (MemberId::from(id), Default::default())).collect();
    for group in groups.values() {
        group.found(voters.clone()).await.unwrap();
    }
    let cluster = Cluster { hub, groups };
    cluster.leader().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_through_all_members_at_once_stay_within_the_bound() {
    let cluster = start().await;
    let value = "x".repeat(VALUE_BYTES);
    let mut writes = Vec::new();
    for n in 0..600 {
        let (group, command) = (cluster.member(1 + n % 3).clone(), set(&format!("k{n:03}"), &value));
        writes.push(tokio::spawn(async move { group.submit(command, soon()).await }));
    }
    let mut accepted = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error, Error::MemoryFull),
        }
    }
    cluster.await_equal_states().await;
    for id in 1..=3 {
        let held = cluster.member(id).local().totals().unwrap().bytes;
        assert!(held <= BYTES_MAX, "{held}");
        assert_eq!(held, accepted * 1_000, "what was acknowledged is there, and nothing else");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_state_takes_what_does_not_grow_it() {
    let cluster = start().await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let group = cluster.member(follower);
    let value = "x".repeat(VALUE_BYTES);
    for n in 0..100 {
        group.submit(set(&format!("k{n:03}"), &value), soon()).await.unwrap();
    }
    let refused = group.submit(set("more", ""), soon()).await;
    assert_eq!(refused, Err(Error::MemoryFull));
    group.submit(set("k000", &"y".repeat(VALUE_BYTES)), soon()).await.unwrap();
    assert_eq!(get(group, "k000").await.unwrap()[0], b'y');
    group.submit(set("k001", ""), soon()).await.unwrap();
    group.submit(set("more", ""), soon()).await.unwrap();
}
