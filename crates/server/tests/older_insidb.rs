//! What the older InsiDB, in Go, did wrong on the same machine. Each of its four failures has a test here.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{
    Client,
    books::{check_books, check_hashes},
    cluster::Cluster,
    history::path,
    wait_for,
};
use insidb_oracle::Store;
use serde_json::json;

/// Writes `k0` to `k{count-1}`, on several connections through all nodes.
fn fill(cluster: &Cluster, key: &str, keys: std::ops::Range<usize>, value: &str) {
    const WRITERS: usize = 12;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let nodes: Vec<usize> = (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)).collect();
            let mut client = cluster.client(nodes[writer % nodes.len()], key);
            let keys = keys.clone().skip(writer).step_by(WRITERS);
            scope.spawn(move || {
                for n in keys {
                    let answer = client.post("/vs", json!({"key": format!("k{n}"), "value": value}));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
}

/// There: 1.2 to 2.1 s without a write.
#[test]
fn a_killed_leader_leaves_no_second_without_a_write() {
    const SILENCE_MAX: Duration = Duration::from_secs(1);
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    for round in 0..3 {
        let leader = cluster.leader();
        let survivors = cluster.others(leader);
        cluster.kill(leader);
        let killed_at = Instant::now();
        for store in [Store::Values, Store::Cache] {
            let body = json!({"key": "k", "value": round.to_string()}).to_string();
            wait_for("a write", || {
                let number = survivors[round % survivors.len()];
                let answer = cluster.connect(number, &key)?.try_request("POST", path(store), &body).ok()?;
                (answer.status == 200).then_some(())
            });
            let silence = killed_at.elapsed();
            assert!(silence <= SILENCE_MAX, "round {round}: no write to {store:?} for {silence:?}");
        }
        cluster.restart(leader);
        cluster.await_whole();
    }
}

/// There: up to 12,236 acknowledged keys were served as absent for 20 to 25 s on a restarted node.
#[test]
fn a_restarted_node_serves_no_acknowledged_key_as_absent() {
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536\nlog_tail_bytes = 0");
    let (key, _) = cluster.create_key(0, "tenant");
    let node = cluster.others(cluster.leader())[0];
    fill(&cluster, &key, 0..3_000, "v");
    cluster.kill(node);
    fill(&cluster, &key, 3_000..5_000, "v");
    cluster.configure(node);
    cluster.spawn(node);
    // From before it listens until it has answered for every key, the newest first: it may refuse, and nothing else.
    let mut missing: Vec<usize> = (0..5_000).collect();
    let mut client = None;
    wait_for("an answer for each key", || {
        client = client.take().or_else(|| cluster.connect(node, &key));
        while let Some(n) = missing.last() {
            let Ok(answer) = client.as_mut()?.try_request("GET", &format!("/vs?key=k{n}"), "") else {
                client = None;
                return None;
            };
            match answer.status {
                200 => {
                    missing.pop();
                }
                503 => return None,
                status => panic!("k{n} was answered {status}: {}", answer.text()),
            }
        }
        Some(())
    });
    cluster.await_whole();
    check_hashes(&cluster);
}

/// There: 50 deleted keys came back.
#[test]
fn a_snapshot_brings_no_deleted_key_back() {
    const DELETED: usize = 50;
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536\nlog_tail_bytes = 0");
    let (key, _) = cluster.create_key(0, "tenant");
    let node = cluster.others(cluster.leader())[0];
    fill(&cluster, &key, 0..300, "v");
    cluster.await_whole();
    cluster.kill(node);
    let log_before = std::fs::read_to_string(cluster.log(node)).unwrap().len();
    let mut client = cluster.client(cluster.leader(), &key);
    for n in 0..DELETED {
        assert_eq!(client.request("DELETE", &format!("/vs?key=k{n}"), "").status, 200);
    }
    // So much that the others have purged their logs past what the node has.
    fill(&cluster, &key, 300..2_000, &"x".repeat(8_000));
    cluster.restart(node);
    cluster.await_whole();
    let log = std::fs::read_to_string(cluster.log(node)).unwrap();
    assert!(log[log_before..].contains("installing a snapshot"), "the node caught up without a snapshot");
    for number in 0..3 {
        let mut client = cluster.client(number, &key);
        for n in 0..DELETED {
            for consistency in ["linearizable", "stale"] {
                let answer = client.get(&format!("/vs?key=k{n}&consistency={consistency}"));
                assert_eq!(answer.status, 404, "k{n} through node {number}, {consistency}");
            }
        }
        for n in DELETED..300 {
            assert_eq!(client.get(&format!("/vs?key=k{n}")).status, 200, "k{n} through node {number}");
        }
    }
    check_hashes(&cluster);
    check_books(&cluster, &key);
}

/// There: one follower's counter differed for good.
#[test]
fn no_nodes_counter_differs() {
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536\nlog_tail_bytes = 0");
    let (key, _) = cluster.create_key(0, "tenant");
    let stop = Arc::<AtomicBool>::default();
    let acknowledged = Arc::<AtomicU64>::default();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (stop, acknowledged, key) = (stop.clone(), acknowledged.clone(), key.clone());
            let address = cluster.nodes[writer % 3].public;
            thread::spawn(move || bump_until(&stop, &acknowledged, address, &key))
        })
        .collect();
    let await_more = |more: u64| {
        let target = acknowledged.load(Ordering::SeqCst) + more;
        wait_for("more bumps", || (acknowledged.load(Ordering::SeqCst) >= target).then_some(()));
    };
    for round in 0..4 {
        await_more(100);
        let leader = cluster.leader();
        let victim = if round % 2 == 0 { leader } else { cluster.others(leader)[0] };
        cluster.kill(victim);
        await_more(100);
        cluster.restart(victim);
        cluster.await_voters();
    }
    stop.store(true, Ordering::SeqCst);
    let unknown: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    cluster.await_whole();
    let mut found = BTreeMap::new();
    for number in 0..3 {
        for consistency in ["linearizable", "stale"] {
            let answer = cluster.client(number, &key).get(&format!("/vs?key=kn&consistency={consistency}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let sum: u64 = answer.json()["data"].as_str().unwrap().parse().unwrap();
            found.insert((number, consistency), sum);
        }
    }
    let expected = acknowledged..=acknowledged + unknown;
    let first = found[&(0, "linearizable")];
    assert!(found.values().all(|sum| *sum == first) && expected.contains(&first), "{found:?}, not all in {expected:?}");
    check_hashes(&cluster);
    check_books(&cluster, &key);
}

/// Bumps through one node; how many outcomes are unknown.
fn bump_until(stop: &AtomicBool, acknowledged: &AtomicU64, address: std::net::SocketAddr, key: &str) -> u64 {
    let mut unknown = 0;
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::SeqCst) {
        client = client.or_else(|| Some(Client::try_connect(address).ok()?.key(key).problems()));
        let Some(connected) = &mut client else {
            thread::park_timeout(Duration::from_millis(10));
            continue;
        };
        match connected.try_request("POST", "/vs/bump", &json!({"key": "kn", "value": "1"}).to_string()) {
            Ok(answer) if answer.status == 200 => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                unknown += u64::from(answer.json()["code"] == "outcome_unknown");
                thread::park_timeout(Duration::from_millis(10));
            }
            Err(_) => {
                unknown += 1;
                client = None;
            }
        }
    }
    unknown
}
