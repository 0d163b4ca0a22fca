//! Cut networks: three real nodes, each in a network namespace of its own, with traffic on all of them.
//!
//! A test makes the namespaces, and one for its clients with the bridge between all; then it runs itself again inside of
//! that one, where the nodes are to be reached. A direction is cut by a route of the sender's that swallows what it sends.
//! Where namespaces are not permitted, the test says so and does nothing.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the inner process is told by its environment what to do")]
#![allow(clippy::print_stderr, reason = "a test that is skipped must say so")]

mod harness;

use std::process::{Command, Stdio};

use harness::{
    Client,
    books::Landmarks,
    cluster::{Cluster, address_in_namespace},
    history::Traffic,
    wait_for,
};

/// Tells the inner process which cut to make.
const CUT: &str = "INSIDB_TEST_CUT";
/// Tells the inner process what the namespaces are called.
const NAMES: &str = "INSIDB_TEST_NAMESPACES";
const NODES: usize = 3;

/// Which messages are swallowed, between one node and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    LeaderAlone,
    FollowerAlone,
    FromLeader,
    ToLeader,
}

const CUTS: [Cut; 4] = [Cut::LeaderAlone, Cut::FollowerAlone, Cut::FromLeader, Cut::ToLeader];

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

fn node_namespace(name: &str, number: usize) -> String {
    format!("{name}-{number}")
}

/// The namespaces of one test, removed with it.
struct Network(String);

impl Network {
    /// None where it is not permitted.
    fn new() -> Option<Self> {
        let network = Self(format!("insidb-{}", std::process::id()));
        network.build().then_some(network)
    }

    fn build(&self) -> bool {
        let hub = &self.0;
        let mut done = ip(&["netns", "add", hub])
            && ip(&["-n", hub, "link", "set", "lo", "up"])
            && ip(&["-n", hub, "link", "add", "bridge", "type", "bridge"])
            && ip(&["-n", hub, "addr", "add", "10.77.0.254/24", "dev", "bridge"])
            && ip(&["-n", hub, "link", "set", "bridge", "up"]);
        for number in 0..NODES {
            let (node, port) = (node_namespace(hub, number), format!("port{number}"));
            let address = format!("{}/24", address_in_namespace(number));
            done = done
                && ip(&["netns", "add", &node])
                && ip(&["-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &node])
                && ip(&["-n", hub, "link", "set", &port, "master", "bridge", "up"])
                && ip(&["-n", &node, "addr", "add", &address, "dev", "eth0"])
                && ip(&["-n", &node, "link", "set", "lo", "up"])
                && ip(&["-n", &node, "link", "set", "eth0", "up"]);
        }
        done
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..NODES {
            ip(&["netns", "del", &node_namespace(&self.0, number)]);
        }
        ip(&["netns", "del", &self.0]);
    }
}

/// Runs [`inside`] where the nodes are to be reached.
fn run_inside(cut: Cut) {
    let Some(network) = Network::new() else {
        eprintln!("SKIPPED: network namespaces cannot be made here (`ip netns add` is missing or not permitted)");
        return;
    };
    let status = Command::new("ip")
        .args(["netns", "exec", &network.0])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env(CUT, format!("{cut:?}"))
        .env(NAMES, &network.0)
        .status()
        .unwrap();
    assert!(status.success(), "{cut:?}: see above");
}

#[test]
fn a_leader_that_is_cut_off_serves_nothing_and_the_others_go_on() {
    run_inside(Cut::LeaderAlone);
}

#[test]
fn a_follower_that_is_cut_off_serves_nothing_and_disturbs_nobody() {
    run_inside(Cut::FollowerAlone);
}

#[test]
fn a_leader_that_hears_and_is_not_heard_is_replaced() {
    run_inside(Cut::FromLeader);
}

#[test]
fn a_leader_that_is_heard_and_hears_nothing_is_replaced() {
    run_inside(Cut::ToLeader);
}

fn route(change: &str, namespace: &str, from: usize, to: usize) {
    let (node, to) = (node_namespace(namespace, from), address_in_namespace(to).to_string());
    assert!(ip(&["-n", &node, "route", change, "blackhole", &to]), "{change} {from} {to}");
}

#[test]
#[ignore = "the other tests run it, in a network of its own"]
fn inside() {
    let cut = std::env::var(CUT).unwrap();
    let cut = CUTS.into_iter().find(|known| format!("{known:?}") == cut).unwrap();
    let namespace = std::env::var(NAMES).unwrap();
    let namespaces = (0..NODES).map(|number| node_namespace(&namespace, number)).collect();
    let mut cluster = Cluster::start_in(namespaces, "checkpoint_bytes = 65536");
    let (key, _) = cluster.create_key(0, "tenant");
    let landmarks = Landmarks::plant(&cluster, &key);
    let traffic = Traffic::start(&cluster, &key);
    traffic.await_more(300);

    let leader = cluster.leader();
    let alone = if cut == Cut::FollowerAlone { (leader + 1) % NODES } else { leader };
    let others = (0..NODES).filter(|number| *number != alone);
    let cuts: Vec<(usize, usize)> = others
        .flat_map(|other| match cut {
            Cut::LeaderAlone | Cut::FollowerAlone => vec![(alone, other), (other, alone)],
            Cut::FromLeader => vec![(alone, other)],
            Cut::ToLeader => vec![(other, alone)],
        })
        .collect();
    for (from, to) in &cuts {
        route("add", &namespace, *from, *to);
    }
    // Nothing that is answered meanwhile may be stale: the histories tell, in the end.
    wait_for("the node that is cut off to refuse", || {
        let mut client = Client::try_connect(cluster.nodes[alone].public).ok()?.key(&key);
        let answer = client.try_request("GET", "/vs?key=k", "").ok()?;
        (answer.status == 503).then_some(())
    });
    traffic.await_writes(300);
    for (from, to) in &cuts {
        route("del", &namespace, *from, *to);
    }
    cluster.await_voters();
    traffic.await_more(300);
    traffic.end_and_check(&mut cluster);
    landmarks.assert_intact(&cluster, &key);
}
