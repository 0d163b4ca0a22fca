//! Changes of the members are bound to what they were decided on.

#![allow(clippy::unwrap_used)]

mod members;

use std::time::Duration;

use consensus::{ChangeError, MemberChange, types::MemberId};
use members::Cluster;

fn voters(ids: &[u64]) -> MemberChange {
    MemberChange::SetVoters(ids.iter().map(|id| MemberId::from(*id)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_decided_on_another_membership_is_not_made() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let group = cluster.member(leader).clone();
    let (before, old) = group.membership();
    cluster.add(4).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let refused = group.change_members(voters(&[leader, others[0]]), old).await;
    assert_eq!(refused, Err(ChangeError::Overtaken));
    let (members, basis) = group.membership();
    assert_eq!((members.members.len(), members.voters), (4, before.voters));
    group.change_members(voters(&[leader, others[0]]), basis).await.unwrap();
    let (members, basis) = group.membership();
    assert_eq!(members.members.len(), 3, "the former voter has left, the learner stays");
    group.change_members(MemberChange::RemoveLearner(MemberId::from(4)), basis).await.unwrap();
    assert_eq!(group.members().members.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_decided_in_another_term_is_not_made_by_the_same_leader() {
    let cluster = Cluster::start(3).await;
    let first = cluster.leader().await;
    let other = (1..=3).find(|id| *id != first).unwrap();
    let group = cluster.member(first);
    let (_, old) = group.membership();
    // It leads again, and the membership is the same: only the term tells.
    group.transfer(MemberId::from(other), Duration::from_secs(10)).await.unwrap();
    let back = cluster.member(other);
    members::eventually("the other to lead", || async { back.status().is_leader }).await;
    back.transfer(MemberId::from(first), Duration::from_secs(10)).await.unwrap();
    members::eventually("the first to lead again", || async { group.status().is_leader }).await;
    let (_, now) = group.membership();
    assert!(now.term() > old.term());
    assert_eq!(group.change_members(voters(&[first, other]), old).await, Err(ChangeError::Overtaken));
    assert_eq!(group.members().voters.len(), 3);
    // Two transfers in a row may be followed by another election: whoever leads then decides anew, as in production.
    members::eventually("a change that is decided now", || async {
        let leader = cluster.member(cluster.leader().await);
        let (_, now) = leader.membership();
        leader.change_members(voters(&[first, other]), now).await.is_ok()
    })
    .await;
    members::eventually("two voters", || async { group.members().voters.len() == 2 }).await;
}
