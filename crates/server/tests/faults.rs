//! Faults of every kind under traffic on all nodes. After each: every answer that any client ever had fits one order of
//! all operations (`insidb-oracle`), the books of every node equal a recount, the states are equal, and the cache is
//! intact where a minority was lost and empty under a new generation where a majority was.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Client, books::Landmarks, cluster::Cluster, history::Traffic, wait_for};
use serde_json::json;

/// How long a node sleeps: past every lease.
const SLEEP: Duration = Duration::from_secs(5);

/// Three nodes with traffic on each. Checkpoints are small, so that logs are purged and snapshots made all the time.
struct Scene {
    cluster: Cluster,
    key: String,
    landmarks: Landmarks,
    traffic: Traffic,
}

impl Scene {
    fn begin() -> Self {
        Self::begin_with(0)
    }

    /// With nodes that may be started later.
    fn begin_with(spare: usize) -> Self {
        let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536\nlog_tail_bytes = 0");
        for _ in 0..spare {
            cluster.reserve();
        }
        let (key, _) = cluster.create_key(0, "tenant");
        let landmarks = Landmarks::plant(&cluster, &key);
        let traffic = Traffic::start(&cluster, &key);
        traffic.await_more(300);
        Self { cluster, key, landmarks, traffic }
    }

    fn followers(&self) -> Vec<usize> {
        let leader = self.cluster.leader();
        (0..3).filter(|number| *number != leader).collect()
    }

    fn restart(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.cluster.configure(*number);
            self.cluster.spawn(*number);
        }
        self.cluster.await_voters();
    }

    fn transfer(&self, to: usize) {
        let body = json!({ "node": self.cluster.id(to) }).to_string();
        let done = self.cluster.admin(to, "POST", "/admin/cluster/transfer", &body);
        assert_eq!(done.status, 200, "{}", done.text());
        wait_for("the node to lead", || (self.cluster.leader() == to).then_some(()));
    }

    fn end_with_cache_intact(mut self) {
        self.traffic.await_more(300);
        self.traffic.end_and_check(&mut self.cluster);
        self.landmarks.assert_intact(&self.cluster, &self.key);
    }

    fn end_with_cache_gone(mut self) {
        self.traffic.await_more(300);
        self.traffic.end_and_check(&mut self.cluster);
        self.landmarks.assert_gone(&self.cluster, &self.key);
    }
}

#[test]
fn the_leader_is_killed() {
    let mut scene = Scene::begin();
    let leader = scene.cluster.leader();
    scene.cluster.kill(leader);
    scene.traffic.await_writes(200);
    scene.landmarks.assert_intact(&scene.cluster, &scene.key);
    scene.restart(&[leader]);
    scene.end_with_cache_intact();
}

#[test]
fn a_follower_is_killed() {
    let mut scene = Scene::begin();
    let follower = scene.followers()[0];
    scene.cluster.kill(follower);
    scene.traffic.await_writes(200);
    scene.restart(&[follower]);
    scene.end_with_cache_intact();
}

#[test]
fn two_of_three_are_killed() {
    let mut scene = Scene::begin();
    let [remaining, other] = scene.followers()[..] else { panic!("three nodes") };
    let leader = scene.cluster.leader();
    scene.cluster.kill(leader);
    scene.cluster.kill(other);
    wait_for("the remaining node to refuse", || {
        let mut client = Client::try_connect(scene.cluster.nodes[remaining].public).ok()?.key(&scene.key);
        (client.get("/vs?key=k").status == 503).then_some(())
    });
    scene.restart(&[leader, other]);
    scene.end_with_cache_gone();
}

#[test]
fn all_three_are_killed() {
    let mut scene = Scene::begin();
    for number in 0..3 {
        scene.cluster.kill(number);
    }
    scene.restart(&[0, 1, 2]);
    scene.end_with_cache_gone();
}

#[test]
fn the_leader_sleeps() {
    let scene = Scene::begin();
    let leader = scene.cluster.leader();
    sleep_through(&scene, leader);
    scene.end_with_cache_intact();
}

#[test]
fn a_follower_sleeps() {
    let scene = Scene::begin();
    let follower = scene.followers()[1];
    sleep_through(&scene, follower);
    scene.end_with_cache_intact();
}

/// The sleep itself is what is tested, and that the others go on meanwhile.
fn sleep_through(scene: &Scene, number: usize) {
    scene.cluster.signal(number, "STOP");
    let asleep_since = Instant::now();
    scene.traffic.await_writes(200);
    thread::park_timeout(SLEEP.saturating_sub(asleep_since.elapsed()));
    scene.cluster.signal(number, "CONT");
}

#[test]
fn each_node_is_restarted_in_turn() {
    let mut scene = Scene::begin();
    for number in 0..3 {
        assert_eq!(scene.cluster.stop(number), Some(0));
        scene.restart(&[number]);
        scene.traffic.await_more(100);
    }
    scene.end_with_cache_intact();
}

#[test]
fn the_leader_loses_its_disk() {
    let mut scene = Scene::begin();
    let leader = scene.cluster.leader();
    let old = scene.cluster.id(leader);
    scene.cluster.kill(leader);
    scene.cluster.wipe(leader);
    scene.traffic.await_writes(100);
    scene.restart(&[leader]);
    assert_ne!(scene.cluster.id(leader), old);
    scene.end_with_cache_intact();
}

#[test]
fn members_come_and_go() {
    let mut scene = Scene::begin_with(1);
    let [first, second] = scene.followers()[..] else { panic!("three nodes") };
    scene.transfer(first);
    scene.traffic.await_more(100);
    scene.restart(&[3]);
    scene.traffic.use_node(3);
    scene.traffic.await_more(100);
    scene.transfer(3);
    // The one that has just led goes, while clients use it.
    let gone = json!({ "node": scene.cluster.id(first) }).to_string();
    let removed = scene.cluster.admin(second, "POST", "/admin/cluster/remove", &gone);
    assert_eq!(removed.status, 200, "{}", removed.text());
    scene.traffic.await_writes(100);
    scene.cluster.kill(first);
    scene.cluster.await_voters();
    for to in [second, 3, second] {
        scene.transfer(to);
        scene.traffic.await_more(50);
    }
    scene.end_with_cache_intact();
}
