//! How nodes find each other: a node that was alone, and a peers' listener that strangers crowd.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use harness::cluster::Cluster;
use serde_json::json;

#[test]
fn a_node_that_has_served_alone_gets_an_address_and_company() {
    let mut cluster = Cluster::start(1);
    cluster.stop(0);
    cluster.wipe(0);
    let configured = std::fs::read_to_string(cluster.config(0)).unwrap();
    let is_of_peers = |line: &&str| line.starts_with("peer_address") || line.starts_with("join");
    let alone: Vec<&str> = configured.lines().filter(|line| !is_of_peers(line)).collect();
    std::fs::write(cluster.config(0), alone.join("\n")).unwrap();
    cluster.spawn(0);
    cluster.await_ready(0);
    assert_eq!(cluster.root(0).post("/vs", json!({"key": "k", "value": "v"})).status, 200);

    // With an address at first, and then with another one.
    cluster.stop(0);
    cluster.restart(0);
    cluster.stop(0);
    cluster.move_peer(0);
    let new = cluster.reserve();
    cluster.restart(0);
    cluster.configure(new);
    cluster.spawn(new);
    cluster.await_whole();
    assert_eq!(cluster.root(new).get("/vs?key=k").json(), json!({"data": "v"}));
    assert_eq!(cluster.root(new).post("/cache", json!({"key": "k", "value": "v"})).status, 200);
}

#[test]
fn connections_that_say_nothing_keep_no_node_out() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let peers: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.peer).collect();
    let mut crowd: Vec<Vec<TcpStream>> = Vec::new();
    for peer in &peers {
        // More than one address may have.
        crowd.push((0..200).map(|_| TcpStream::connect(peer).unwrap()).collect());
    }
    // Whoever is shown out comes back: fifty times a second, to each node that runs.
    let is_over = Arc::new(AtomicBool::new(false));
    let told = is_over.clone();
    let crowding = thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            for (peer, crowd) in peers.iter().zip(&mut crowd) {
                if let Ok(silent) = TcpStream::connect(peer) {
                    crowd.push(silent);
                    crowd.remove(0);
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let leader = cluster.leader();
    cluster.kill(leader);
    let survivor = cluster.others(leader)[0];
    cluster.set_until_done(survivor, &key, "/vs", "k", "v");
    cluster.restart(leader);
    cluster.await_whole();
    cluster.set_until_done(leader, &key, "/cache", "k", "v");
    assert!(!crowding.is_finished(), "the crowd was there for all of it");
    is_over.store(true, Ordering::Relaxed);
    crowding.join().unwrap();
}
