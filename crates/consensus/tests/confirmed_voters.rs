//! What a leader may say of the voters, and what it may not.

#![allow(clippy::unwrap_used, missing_docs)]

mod members;

use std::{collections::BTreeSet, time::Duration};

use consensus::{Error, types::MemberId};
use members::{Cluster, set, soon, within};

const A: u64 = 1;
const B: u64 = 2;
const C: u64 = 3;
const D: u64 = 4;

fn ids(ids: &[u64]) -> BTreeSet<MemberId> {
    ids.iter().copied().map(MemberId::from).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_and_nobody_else_confirms_the_voters() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = [A, B, C].into_iter().find(|id| *id != leader).unwrap();
    assert_eq!(cluster.member(leader).confirmed_voters(soon()).await, Ok(Some(ids(&[A, B, C]))));
    assert_eq!(cluster.member(follower).confirmed_voters(soon()).await, Err(Error::NoLeader));
    cluster.add(D).await;
    assert_eq!(cluster.member(leader).confirmed_voters(soon()).await, Ok(Some(ids(&[A, B, C]))), "a learner is none");
    cluster.member(leader).set_voters(ids(&[A, B, C, D])).await.unwrap();
    assert_eq!(cluster.member(leader).confirmed_voters(soon()).await, Ok(Some(ids(&[A, B, C, D]))));
}

/// It leads, as far as it knows, and its voters are settled: both are wrong soon, and both may be wrong now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_without_having_heard_of_it_confirms_nothing() {
    let mut cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let other = [A, B, C].into_iter().find(|id| *id != old).unwrap();
    cluster.member(old).submit(set("k", "before"), soon()).await.unwrap();
    cluster.hub.isolate(MemberId::from(old), &[A, B, C, D].map(MemberId::from));
    members::eventually("a write under another leader", || async {
        cluster.member(other).submit(set("k", "after"), soon()).await.is_ok()
    })
    .await;
    let new = [A, B, C].into_iter().find(|id| *id != old && cluster.member(*id).status().is_leader).unwrap();
    cluster.groups.insert(D, members::start(&cluster.hub, members::options(D)).await);
    cluster.member(new).add_learner(MemberId::from(D), consensus::types::Peer::default()).await.unwrap();
    cluster.member(new).set_voters(ids(&[A, B, C, D])).await.unwrap();

    let members = cluster.member(old).members();
    assert!(cluster.member(old).status().is_leader && members.is_settled, "{members:?}");
    assert_eq!(members.voters, ids(&[A, B, C]));
    let confirmed = cluster.member(old).confirmed_voters(within(Duration::from_millis(500))).await;
    assert!(matches!(confirmed, Err(Error::NoQuorum | Error::NoLeader)), "{confirmed:?}");
    assert_eq!(cluster.member(new).confirmed_voters(soon()).await, Ok(Some(ids(&[A, B, C, D]))));
}
