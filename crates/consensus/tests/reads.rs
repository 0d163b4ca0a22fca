//! Linearizable reads: of a leader under its lease, and of a member that does not lead.

#![allow(clippy::unwrap_used, missing_docs)]

mod members;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use consensus::{
    Group, Options,
    transport::{
        loopback::Hub,
        wire::{Frames, Route, Wire, WireError},
    },
    types::MemberId,
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use members::{Cluster, eventually, get, set, setnx, soon};
use state::outcome::{DataOutcome, Outcome, Rejection};
use std::collections::BTreeMap;
use storage::MemoryEngine;
use tokio::sync::watch;

/// A hub that holds back, while it is told to, the answers to one member's questions, and the entries that it is sent.
#[derive(Clone)]
struct Holding {
    hub: Hub,
    member: MemberId,
    answers: watch::Receiver<bool>,
    entries: watch::Receiver<bool>,
    /// How many answers were held back.
    held: Arc<AtomicU64>,
}

async fn until_let_go(mut is_held: watch::Receiver<bool>) {
    drop(is_held.wait_for(|is_held| !is_held).await);
}

impl Wire for Holding {
    async fn call(&self, at: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        let answer = self.hub.call(at, route.clone(), message, wait_max).await;
        if route.from == self.member && *self.answers.borrow() {
            self.held.fetch_add(1, Ordering::SeqCst);
            until_let_go(self.answers.clone()).await;
        }
        answer
    }

    async fn stream(&self, at: &str, route: Route, frames: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        let (is_held, is_for_it) = (self.entries.clone(), route.to == self.member);
        let frames = stream::unfold(frames, move |mut frames| {
            let is_held = is_held.clone();
            async move {
                let frame = frames.next().await?;
                if is_for_it {
                    until_let_go(is_held).await;
                }
                Some((frame, frames))
            }
        });
        self.hub.stream(at, route, frames.boxed()).await
    }
}

/// No election comes while a member hears nothing for a moment.
fn patient(id: u64) -> Options {
    Options { election_timeout: Duration::from_millis(800), ..members::options(id) }
}

#[tokio::test]
async fn a_read_that_begins_while_the_leader_is_asked_does_not_take_that_answer() {
    const READER: u64 = 3;
    let (hold_answers, answers) = watch::channel(false);
    let (hold_entries, entries) = watch::channel(false);
    let held = Arc::new(AtomicU64::new(0));
    let wire = |hub: &Hub| Holding {
        hub: hub.clone(),
        member: MemberId::from(READER),
        answers: answers.clone(),
        entries: entries.clone(),
        held: held.clone(),
    };
    let cluster = Cluster::start_over(3, wire, patient).await;
    if cluster.leader().await == READER {
        cluster.member(READER).transfer(MemberId::from(1), Duration::from_secs(10)).await.unwrap();
    }
    let leader = cluster.leader().await;
    cluster.member(leader).submit(set("k", "old"), soon()).await.unwrap();
    assert_eq!(get(cluster.member(READER), "k").await.as_deref(), Some(&b"old"[..]));

    // The leader has answered the first read, and the member waits for that answer.
    hold_entries.send_replace(true);
    hold_answers.send_replace(true);
    let read = || {
        let group = cluster.member(READER).clone();
        tokio::spawn(async move { get(&group, "k").await })
    };
    let first = read();
    eventually("an answer to be held back", || async { held.load(Ordering::SeqCst) > 0 }).await;
    cluster.member(leader).submit(set("k", "new"), soon()).await.unwrap();
    // All is on one thread: when it has had its turn, it waits.
    let second = read();
    tokio::task::yield_now().await;
    hold_answers.send_replace(false);
    assert_eq!(first.await.unwrap().as_deref(), Some(&b"old"[..]), "it began before the write");
    hold_entries.send_replace(false);
    assert_eq!(second.await.unwrap().as_deref(), Some(&b"new"[..]), "it began behind the acknowledgement");
}

/// On a busy node each wake-up stands in a queue: were they to take turns, the last of many would wait for as many queues.
#[tokio::test]
async fn all_who_read_on_a_follower_meanwhile_are_told_together() {
    const READS: usize = 500;
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    cluster.hub.set_delay(Duration::from_millis(20));
    let turns = Arc::new(AtomicU64::new(0));
    let counted = turns.clone();
    // Always ready: it counts how often each task could have had its turn.
    let counting = tokio::spawn(poll_fn(move |context| {
        counted.fetch_add(1, Ordering::Relaxed);
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let read = || {
        let (group, turns) = (cluster.member(follower).clone(), turns.clone());
        tokio::spawn(async move {
            group.read(soon()).await.map(drop).unwrap();
            turns.load(Ordering::Relaxed)
        })
    };
    let reads: Vec<_> = std::iter::repeat_with(read).take(READS).collect();
    let mut ends = Vec::new();
    for read in reads {
        ends.push(read.await.unwrap());
    }
    counting.abort();
    ends.sort_unstable();
    // Some may have gone with an earlier question.
    let took = ends[READS - 1] - ends[READS / 2];
    assert!(took < 50, "{took} turns between the middle one and the last");
}

/// A hub that loses all questions of one member, while it is told to.
#[derive(Clone)]
struct Mute {
    hub: Hub,
    member: MemberId,
    is_mute: watch::Receiver<bool>,
}

impl Wire for Mute {
    async fn call(&self, at: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        if route.from == self.member && *self.is_mute.borrow() {
            return Err(WireError::Unreachable("it is lost".to_owned()));
        }
        self.hub.call(at, route, message, wait_max).await
    }

    async fn stream(&self, at: &str, route: Route, frames: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        self.hub.stream(at, route, frames).await
    }
}

/// A cluster whose first member leads, under a lease that is longer than any test, and holds one value; what it says is heard by
/// nobody while it is told to be mute.
async fn led_for_long() -> (Cluster, watch::Sender<bool>) {
    let (muting, is_mute) = watch::channel(false);
    let hub = Hub::default();
    let mut groups = BTreeMap::new();
    for id in 1..=3 {
        let wire = Mute { hub: hub.clone(), member: MemberId::from(1), is_mute: is_mute.clone() };
        let options = Options { election_timeout: Duration::from_secs(120), ..members::options(id) };
        groups.insert(id, members::start_over(&hub, wire, options).await);
    }
    let voters = (1..=3).map(|id| (MemberId::from(id), consensus::types::Peer::default())).collect();
    groups[&1].found(voters).await.unwrap();
    let cluster = Cluster { hub, groups };
    assert_eq!(cluster.leader().await, 1);
    let leader = cluster.member(1);
    leader.submit(set("k", "v"), soon()).await.unwrap();
    eventually("a read without a question", || async { reads_at_once(leader) }).await;
    (cluster, muting)
}

fn reads_at_once(leader: &Group<MemoryEngine>) -> bool {
    leader.read(soon()).now_or_never().is_some_and(|read| read.is_ok())
}

/// Nobody hears of the transfer: the leader's own word is all that ends its reads.
#[tokio::test]
async fn a_leader_answers_at_once_under_its_lease_and_not_once_it_hands_over() {
    let (cluster, muting) = led_for_long().await;
    let leader = cluster.member(1);
    muting.send_replace(true);
    let _ = leader.transfer(MemberId::from(2), Duration::ZERO).await;
    eventually("the lease to be given up", || async { !reads_at_once(leader) }).await;
    assert!(leader.read(soon()).await.is_err());
}

/// It is answered as a read is, and never more boldly.
#[tokio::test]
async fn what_a_condition_refuses_goes_through_no_log_while_reads_need_no_question() {
    let (cluster, muting) = led_for_long().await;
    let leader = cluster.member(1);
    let before = leader.status().last_index;
    let at_once = || leader.submit(setnx("k", "w"), soon()).now_or_never();
    let refused = DataOutcome { revision: 1, result: Err(Rejection::KeyExists) };
    assert_eq!(at_once().unwrap().unwrap(), Outcome::Data(refused));
    assert_eq!(leader.status().last_index, before);

    muting.send_replace(true);
    let _ = leader.transfer(MemberId::from(2), Duration::ZERO).await;
    eventually("the lease to be given up", || async { !reads_at_once(leader) }).await;
    assert!(at_once().is_none_or(|answer| answer.is_err()));
}
