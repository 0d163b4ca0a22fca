//! Who may serve: leases, what is in force when it is acknowledged, nodes that leave, states that differ.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Client, cluster::Cluster, wait_for};
use serde_json::{Value, json};
use storage::{DiskEngine, Engine, KeyRange, Read, Transaction, disk, fs::OsDisk};

fn change(cluster: &Cluster, at: usize, what: &str, body: &Value) -> (u16, String) {
    let answer = cluster.admin(at, "POST", &format!("/admin/cluster/{what}"), &body.to_string());
    (answer.status, answer.text().to_owned())
}

/// Changes a stored value of a node that does not run, as a failing disk or a bug would: `old` becomes `new` behind the
/// back of everything that counts and hashes.
fn alter(cluster: &Cluster, number: usize, old: &[u8], new: &[u8]) {
    assert!(!cluster.is_running(number) && old.len() == new.len());
    let options = disk::Options { cache_bytes: 1 << 20 };
    let engine = DiskEngine::open(Arc::new(OsDisk), &cluster.nodes[number].dir.join("store"), options).unwrap();
    let rows: Vec<_> = engine.view().scan(KeyRange::prefix(&[])).map(Result::unwrap).collect();
    let mut found = rows.into_iter().filter(|(_, value)| value.ends_with(old));
    let (key, value) = found.next().unwrap();
    assert!(found.next().is_none(), "one row alone ends so");
    let altered = [&value[..value.len() - old.len()], new].concat();
    let mut transaction = engine.begin();
    transaction.put(&key, &altered);
    transaction.commit().unwrap();
    engine.checkpoint().unwrap();
}

/// Stops a node, alters the counter `n` in its state, and starts it again.
fn restart_altered(cluster: &mut Cluster, number: usize) {
    assert_eq!(cluster.stop(number), Some(0));
    alter(cluster, number, b"1000001", b"1000007");
    cluster.restart(number);
    cluster.await_voters();
}

fn bump(cluster: &Cluster, number: usize, key: &str, by: u64) -> Option<u16> {
    let mut client = cluster.connect(number, key)?;
    let body = json!({"key": "n", "value": by.to_string()}).to_string();
    Some(client.try_request("POST", "/vs/bump", &body).ok()?.status)
}

fn counter(cluster: &Cluster, number: usize, key: &str) -> Option<String> {
    let mut client = cluster.connect(number, key)?;
    let answer = client.try_request("GET", "/vs?key=n", "").ok().filter(|answer| answer.status == 200)?;
    Some(answer.json()["data"].as_str()?.to_owned())
}

fn hand_leadership_to(cluster: &Cluster, number: usize) {
    let id = cluster.id(number);
    wait_for("the node to lead", || {
        let (status, text) = change(cluster, number, "transfer", &json!({ "node": id }));
        assert!(status == 200 || status == 409 || status == 503, "{status} {text}");
        (cluster.leader() == number).then_some(())
    });
}

#[test]
fn a_node_whose_state_differs_goes_out_of_service_and_the_others_go_on() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    assert_eq!(bump(&cluster, 0, &key, 1_000_001), Some(200));
    let leader = cluster.leader();
    let wrong = cluster.others(leader)[0];
    let right = cluster.others(wrong);
    restart_altered(&mut cluster, wrong);
    hand_leadership_to(&cluster, right[0]);
    // Its own state decides differently from here on.
    assert_eq!(bump(&cluster, right[0], &key, 1), Some(200));
    assert_ne!(cluster.await_end(wrong), Some(0));
    assert!(cluster.log_text(wrong).contains("differs from the other nodes'"), "{}", cluster.log_text(wrong));
    for number in &right {
        assert_eq!(counter(&cluster, *number, &key).as_deref(), Some("1000002"));
        assert!(cluster.is_ready(*number));
    }
    // Nor does it come back with what it has.
    cluster.configure(wrong);
    cluster.spawn(wrong);
    assert_ne!(cluster.await_end(wrong), Some(0));
}

#[test]
fn a_leader_whose_state_the_majority_does_not_have_goes_itself() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    assert_eq!(bump(&cluster, 0, &key, 1_000_001), Some(200));
    let wrong = cluster.leader();
    let right = cluster.others(wrong);
    restart_altered(&mut cluster, wrong);
    hand_leadership_to(&cluster, wrong);
    assert_eq!(bump(&cluster, right[0], &key, 1), Some(200));
    assert_ne!(cluster.await_end(wrong), Some(0));
    for number in right {
        let counted = wait_for("the others to serve", || counter(&cluster, number, &key));
        assert_eq!(counted, "1000002");
    }
}

#[test]
fn two_nodes_that_differ_serve_neither() {
    let mut cluster = Cluster::start(2);
    let (key, _) = cluster.create_key(0, "tenant");
    assert_eq!(bump(&cluster, 0, &key, 1_000_001), Some(200));
    let wrong = 1 - cluster.leader();
    restart_altered(&mut cluster, wrong);
    assert_eq!(bump(&cluster, 0, &key, 1), Some(200));
    for number in 0..2 {
        wait_for("the node to refuse", || (bump(&cluster, number, &key, 1) == Some(503)).then_some(()));
    }
    // The groups themselves are well, and would serve: it is the lease that is missing.
    for number in 0..2 {
        assert!(!cluster.is_ready(number));
        assert_eq!(counter(&cluster, number, &key), None);
        let stale = cluster.client(number, &key).get("/vs?key=n&consistency=stale");
        assert_eq!(stale.status, 503, "{}", stale.text());
    }
    // The lease goes first; the line follows, through the log's own buffer.
    wait_for("the leader to say so, loudly", || {
        (0..2).any(|number| cluster.log_text(number).contains("it is not known which is right")).then_some(())
    });
}

#[test]
fn a_node_that_is_removed_serves_no_more_when_that_is_acknowledged_and_is_told() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let [gone, asked] = cluster.others(leader)[..] else { panic!("three nodes") };
    let gone_id = cluster.id(gone);
    let mut client = cluster.client(gone, &key);
    assert_eq!(client.post("/vs", json!({"key": "k", "value": "v"})).status, 200);
    let (status, reason) = change(&cluster, asked, "remove", &json!({ "node": gone_id }));
    assert_eq!(status, 200, "{reason}");
    for store in ["/vs", "/cache"] {
        // It may have ended by now.
        if let Ok(answer) = client.try_request("GET", &format!("{store}?key=k&consistency=stale"), "") {
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
    }
    assert_eq!(cluster.await_end(gone), Some(1));
    let log = cluster.log_text(gone);
    assert!(log.contains("this node was removed from the cluster"), "{log}");
    let (status, reason) = change(&cluster, asked, "remove", &json!({ "node": gone_id }));
    assert!(status == 409 && reason.contains("has been removed already"), "{status} {reason}");
    let (status, reason) = change(&cluster, asked, "remove", &json!({ "node": "00000000000000aa" }));
    assert!(status == 409 && reason.contains("there is no node"), "{status} {reason}");
    let peer = cluster.nodes[asked].peer.to_string();
    assert_eq!(change(&cluster, asked, "add", &json!({ "address": peer })).0, 200, "it is a member: nothing to do");
}

/// The node that is removed may be the one that was asked: it ends, and answers before that.
#[test]
fn a_removal_is_answered_by_the_node_that_goes() {
    let mut cluster = Cluster::start(3);
    for leads in [true, false] {
        let leader = cluster.leader();
        let follower = || cluster.others(leader).into_iter().find(|number| cluster.is_running(*number)).unwrap();
        let gone = if leads { leader } else { follower() };
        let (status, reason) = change(&cluster, gone, "remove", &json!({ "node": cluster.id(gone) }));
        assert_eq!(status, 200, "leads: {leads}: {reason}");
        assert_eq!(cluster.await_end(gone), Some(1));
    }
}

/// A removal waits for three seconds until its node's lease has run out. Of those who stay one dies meanwhile: the change
/// would be begun and could not be finished, and nothing would be served until that one is back.
#[test]
fn a_removal_is_refused_when_one_that_stays_dies_while_it_waits() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let [gone, stays] = cluster.others(leader)[..] else { unreachable!("there are three") };
    let removal = json!({ "node": cluster.id(gone) });
    let begin = Instant::now();
    let (status, reason) = thread::scope(|scope| {
        let (asked, address, root) = (cluster.nodes[leader].private, removal.to_string(), cluster.root_key.clone());
        let removing = scope.spawn(move || {
            let answer = Client::connect(asked).key(&root).request("POST", "/admin/cluster/remove", &address);
            (answer.status, answer.text().to_owned())
        });
        // Late in the wait: it is noticed only when a second and a half have passed since it was last heard.
        wait_for("the moment", || (begin.elapsed() > Duration::from_millis(2_300)).then_some(()));
        cluster.kill(stays);
        removing.join().unwrap()
    });
    assert!(status == 409 && reason.contains("no majority that answers"), "{status} {reason}");
    let set = json!({"key": "k", "value": "v"});
    assert_eq!(cluster.client(leader, &key).post("/vs", set.clone()).status, 200);
    wait_for("the node that was to go to have a lease again", || {
        (cluster.client(gone, &key).post("/vs", set.clone()).status == 200).then_some(())
    });
    cluster.restart(stays);
    cluster.await_voters();
    let (status, reason) = change(&cluster, leader, "remove", &removal);
    assert_eq!(status, 200, "{reason}");
}

#[test]
fn a_removal_during_another_is_refused() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let removals = cluster.others(leader).into_iter().map(|node| {
            let cluster = &cluster;
            scope.spawn(move || change(cluster, leader, "remove", &json!({ "node": cluster.id(node) })))
        });
        let removals: Vec<_> = removals.collect();
        removals.into_iter().map(|removal| removal.join().unwrap()).collect()
    });
    let refused = |(status, reason): &&(u16, String)| *status == 409 && reason.contains("is under way");
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(refused).count(), 1, "{answers:?}");
    assert_eq!(cluster.status(leader)["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn both_groups_leadership_is_handed_over() {
    let mut cluster = Cluster::start(3);
    for to in [0, 1, 2, 0] {
        let id = cluster.id(to);
        let (status, text) = change(&cluster, (to + 1) % 3, "transfer", &json!({ "node": id }));
        assert_eq!(status, 200, "{text}");
        let status = cluster.status(to);
        assert_eq!((&status["leader"], &status["cache_leader"]), (&json!(id), &json!(id)), "{status:#}");
    }
    let before = cluster.leader();
    let (status, text) = change(&cluster, before, "transfer", &json!({}));
    assert_eq!(status, 200, "{text}");
    let after = wait_for("another leader", || Some(cluster.leader()).filter(|leader| *leader != before));
    wait_for("the cache's leader", || {
        (cluster.status(after)["cache_leader"] == json!(cluster.id(after))).then_some(())
    });

    // To one that does not answer nothing is handed, and the leader goes on.
    let dead = cluster.others(after)[0];
    let dead_id = cluster.id(dead);
    cluster.kill(dead);
    wait_for("the dead one to be missed", || {
        let status = cluster.status(after);
        let row = status["nodes"].as_array()?.iter().find(|row| row["node"] == json!(dead_id))?;
        row["values"]["last_contact_ms"].as_u64().filter(|age| *age > 2_000)
    });
    let (status, reason) = change(&cluster, after, "transfer", &json!({ "node": dead_id }));
    assert!(status == 409 && reason.contains("does not answer; nothing was changed"), "{status} {reason}");
    assert_eq!(cluster.leader(), after);
}

/// A leader that has just begun has heard from nobody yet.
#[test]
fn leadership_goes_on_to_one_that_the_leader_has_not_heard_from_yet() {
    let cluster = Cluster::start(3);
    let before = cluster.leader();
    let [next, last] = cluster.others(before)[..] else { panic!("three nodes") };
    let (next_id, last_id) = (cluster.id(next), cluster.id(last));
    cluster.signal(last, "STOP");
    let (status, text) = change(&cluster, before, "transfer", &json!({ "node": next_id }));
    assert_eq!(status, 200, "{text}");
    let (status, text) = thread::scope(|scope| {
        let asked = scope.spawn(|| change(&cluster, next, "transfer", &json!({ "node": last_id })));
        let begin = Instant::now();
        wait_for("a third of a second without an answer", || {
            assert!(!asked.is_finished(), "answered before it could hear: {:?}", cluster.status(next));
            (begin.elapsed() > Duration::from_millis(300)).then_some(())
        });
        cluster.signal(last, "CONT");
        asked.join().unwrap()
    });
    assert_eq!(status, 200, "{text}");
    assert_eq!(cluster.status(last)["leader"], json!(last_id));
}

/// Writers on every node go on under an alias, or under a large limit, while that is taken away: once it is acknowledged
/// nothing of theirs is applied any more.
#[test]
fn what_was_let_in_before_is_not_done_after() {
    let cluster = Cluster::start(3);
    for round in 0..6 {
        let store = if round % 2 == 0 { "/cache" } else { "/vs" };
        let (key, _) = cluster.create_key(round % 3, "tenant");
        let made = cluster.client(0, &key).request("POST", "/alias/set", "");
        assert_eq!(made.status, 200, "{}", made.text());
        let alias = made.json()["alias"].as_str().unwrap().to_owned();
        let stop = Arc::<AtomicBool>::default();
        let done = Arc::<AtomicU64>::default();
        let writers: Vec<_> = (0..6)
            .map(|n| {
                let mut client = cluster.client(n % 3, &alias);
                let (stop, done) = (stop.clone(), done.clone());
                thread::spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::SeqCst) {
                        count += 1;
                        let body = json!({"key": format!("k{n}"), "value": count.to_string()});
                        match client.post(store, body).status {
                            200 => done.fetch_add(1, Ordering::SeqCst),
                            // Refused where it was applied, or at the door.
                            503 => continue,
                            401 => return,
                            other => panic!("{other}"),
                        };
                    }
                })
            })
            .collect();
        wait_for("the writers to write", || (done.load(Ordering::SeqCst) > 300).then_some(()));
        let gone = cluster.client((round + 1) % 3, &key).request(
            "POST",
            "/alias/delete",
            &json!({ "alias": alias }).to_string(),
        );
        assert_eq!(gone.status, 200, "{}", gone.text());
        let values = || -> Vec<String> {
            let mut client = cluster.client(round % 3, &key);
            (0..6).map(|n| client.get(&format!("{store}?key=k{n}")).text().to_owned()).collect()
        };
        let acknowledged = values();
        // Each of them hears of it by its next write, and the one that was on its way is answered by then.
        wait_for("the writers to be refused", || writers.iter().all(thread::JoinHandle::is_finished).then_some(()));
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(values(), acknowledged, "round {round}, {store}");
    }
}
