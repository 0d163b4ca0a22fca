//! One rate limit for three real nodes (`docs/api.md`, section 5): the numbers that it gives, measured at the clients.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use harness::{Client, cluster::Cluster, wait_for};
use serde_json::json;

const NODES: usize = 3;

/// A tenant's key with a limit of its own.
#[derive(Clone)]
struct Tenant {
    key: String,
    uuid: String,
    nodes: Vec<SocketAddr>,
}

fn limit(cluster: &Cluster, through: usize, uuid: &str, per_second: u64) {
    let limits = json!({"key_uuid": uuid, "limits": {"rate_per_second_data_limit": per_second}});
    let set = cluster.admin(through, "POST", "/admin/limits/set", &limits.to_string());
    assert_eq!(set.status, 200, "{}", set.text());
}

fn tenant(cluster: &Cluster, name: &str, per_second: u64) -> Tenant {
    let (key, uuid) = cluster.create_key(0, name);
    limit(cluster, 1, &uuid, per_second);
    Tenant { key, uuid, nodes: cluster.nodes.iter().map(|node| node.public).collect() }
}

/// One client at one node with a steady demand; the moments at which its requests were granted.
fn ask(tenant: &Tenant, node: usize, per_second: u32, time: Duration) -> Vec<Instant> {
    let connect = || Client::try_connect(tenant.nodes[node]).ok().map(|client| client.key(&tenant.key));
    let (began, gap) = (Instant::now(), Duration::from_secs(1) / per_second);
    let mut client = connect();
    let mut granted = Vec::new();
    let mut due = began;
    while due < began + time {
        while let Some(wait) = due.checked_duration_since(Instant::now()) {
            thread::park_timeout(wait); // the client's own pace
        }
        due += gap;
        let answer = client.as_mut().and_then(|client| client.try_request("GET", "/vs?key=k", "").ok());
        match answer.map(|answer| answer.status) {
            Some(404) => granted.push(Instant::now()),
            Some(429 | 503) => {}
            None => client = connect(),
            other => panic!("{other:?}"),
        }
    }
    granted
}

/// One client at each node.
fn ask_all(tenant: &Tenant, per_second: u32, time: Duration) -> Vec<Instant> {
    let client = |node| {
        let tenant = tenant.clone();
        thread::spawn(move || ask(&tenant, node, per_second, time))
    };
    let clients: Vec<_> = (0..NODES).map(client).collect();
    let mut granted: Vec<Instant> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    granted.sort_unstable();
    granted
}

/// Beyond the burst, no more than 1.2 times the limit and one request a node, over any 10 s and any shorter time.
fn assert_at_most(what: &str, granted: &[Instant], per_second: u64) {
    for seconds in [1, 3, 10] {
        let allowed = per_second + 12 * per_second * seconds / 10 + NODES as u64;
        let mut first = 0;
        for (last, at) in granted.iter().enumerate() {
            while at.duration_since(granted[first]) > Duration::from_secs(seconds) {
                first += 1;
            }
            let count = (last - first + 1) as u64;
            assert!(count <= allowed, "{what}: {count} within {seconds} s, where {allowed} are allowed");
        }
    }
}

/// At least 0.9 of the limit in the time from `from` to `to`.
fn assert_at_least(what: &str, granted: &[Instant], per_second: u64, from: Instant, to: Instant) {
    let count = granted.iter().filter(|at| (from..to).contains(at)).count() as f64;
    let expected = 0.9 * per_second as f64 * (to - from).as_secs_f64();
    assert!(count >= expected.floor(), "{what}: {count} granted, where {expected} were due");
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_limit_is_the_clusters_wherever_its_clients_are() {
    const LIMIT: u64 = 50;
    let cluster = Cluster::start(NODES);
    let tenants: Vec<Tenant> =
        ["alone", "everywhere", "moving", "lowered"].iter().map(|name| tenant(&cluster, name, LIMIT)).collect();
    let [alone, everywhere, moving, lowered] = tenants.try_into().ok().unwrap();
    let began = Instant::now();

    let alone = thread::spawn(move || ask(&alone, 2, 75, s(11)));
    let everywhere = thread::spawn(move || ask_all(&everywhere, 60, s(11)));
    let moving = thread::spawn(move || (0..NODES).map(|node| (Instant::now(), ask(&moving, node, 75, s(4)))).collect());
    let moving: thread::JoinHandle<Vec<(Instant, Vec<Instant>)>> = moving;
    let asking = lowered.clone();
    let asking = thread::spawn(move || ask_all(&asking, 60, s(11)));

    // Under load the limit is lowered: in force on every node when that is acknowledged.
    thread::park_timeout(s(4)); // so long under the first one
    let low = LIMIT / 5;
    limit(&cluster, 2, &lowered.uuid, low);
    let lowered_at = Instant::now();
    let granted = asking.join().unwrap();
    let until = granted.iter().position(|at| *at > lowered_at).unwrap_or(granted.len());
    assert_at_most("before it is lowered", &granted[..until], LIMIT);
    assert_at_most("after it was lowered", &granted[until..], low);
    let end = began + s(11);
    assert_at_least("after it was lowered", &granted, low, lowered_at + s(2), end);

    let granted = alone.join().unwrap();
    assert_at_most("one client on one node", &granted, LIMIT);
    assert_at_least("one client on one node", &granted, LIMIT, began + s(2), end);

    let granted = everywhere.join().unwrap();
    assert_at_most("clients on all nodes", &granted, LIMIT);
    assert_at_least("clients on all nodes", &granted, LIMIT, began + s(2), end);

    let stays = moving.join().unwrap();
    for (node, (since, granted)) in stays.iter().enumerate() {
        assert_at_least(&format!("a client that has moved to {node}"), granted, LIMIT, *since + s(2), *since + s(4));
    }
    let granted: Vec<Instant> = stays.into_iter().flat_map(|(_, granted)| granted).collect();
    assert_at_most("a client that moves", &granted, LIMIT);
}

#[test]
fn a_refusal_names_the_limit_and_a_burst_through_one_node_is_all_of_it() {
    const LIMIT: u64 = 30;
    let cluster = Cluster::start(NODES);
    let tenant = tenant(&cluster, "tenant", LIMIT);
    let granted = ask(&tenant, 1, 200, s(1));
    assert!(granted.len() as u64 >= LIMIT, "{}", granted.len());
    assert_at_most("a burst", &granted, LIMIT);
    let mut client = cluster.client(1, &tenant.key);
    let refused = wait_for("a refusal", || Some(client.get("/vs?key=k")).filter(|answer| answer.status == 429));
    let wait_s: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait_s));
    for header in ["x-ratelimit-limit", "x-ratelimit-burst"] {
        assert_eq!(refused.header(header), Some("30"), "the scope's, not the node's share");
    }
    limit(&cluster, 0, &tenant.uuid, 0);
    for node in 0..NODES {
        assert_eq!(cluster.client(node, &tenant.key).get("/vs?key=k").status, 429, "0 refuses all");
    }
}

#[test]
fn shares_outlive_the_leader_and_what_a_dead_node_had_comes_back() {
    const LIMIT: u64 = 40;
    let mut cluster = Cluster::start(NODES);
    let tenant = tenant(&cluster, "tenant", LIMIT);
    let leader = cluster.leader();
    let began = Instant::now();
    let asking = thread::spawn(move || ask_all(&tenant, 60, s(11)));
    thread::park_timeout(s(2)); // so long with all three
    cluster.kill(leader);
    let killed_at = Instant::now();
    let granted = asking.join().unwrap();
    assert_at_most("over a leader's death", &granted, LIMIT);
    // The survivors keep their two thirds while nobody knows whether the dead one uses its own: 1 s for the election.
    let (from, to) = (killed_at + s(1), killed_at + s(3));
    let count = granted.iter().filter(|at| (from..to).contains(at)).count() as u64;
    assert!(count >= LIMIT, "{count} in 2 s with a leader's share missing");
    assert_at_least("without the dead node", &granted, LIMIT, killed_at + s(6), began + s(11));
}
