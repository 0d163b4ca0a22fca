//! A node is where its last start says, has one data directory, and that one is not an old copy.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{cluster::Cluster, wait_for};
use serde_json::json;

#[test]
fn a_node_that_comes_back_at_another_address_is_reached_there() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    // A follower, under the leader that knew it elsewhere; then that leader.
    for moves in [(leader + 1) % 3, leader] {
        cluster.kill(moves);
        let others = [(moves + 1) % 3, (moves + 2) % 3];
        wait_for("a write without it", || {
            let answer = cluster.client(others[0], &key).post("/vs", json!({"key": "k", "value": moves.to_string()}));
            (answer.status == 200).then_some(())
        });
        cluster.move_peer(moves);
        cluster.restart(moves);
        cluster.await_whole();
        assert_eq!(cluster.client(moves, &key).get("/vs?key=k").json()["data"], json!(moves.to_string()));
    }
}

/// The second loss comes while the first one's successor is in the cache's node set and does not vote there yet.
#[test]
fn a_disk_that_is_lost_again_at_once_holds_nothing_up() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let lost = (cluster.leader() + 1) % 3;
    let asked = (lost + 1) % 3;
    let address = json!(cluster.nodes[lost].peer.to_string());
    let mut former = vec![cluster.id(lost)];
    for _ in 0..2 {
        cluster.kill(lost);
        cluster.wipe(lost);
        cluster.spawn(lost);
        let successor = wait_for("its successor to vote", || {
            let status = cluster.status(asked);
            let rows = status["nodes"].as_array()?.iter().filter(|row| row["address"] == address);
            let mut others = rows.filter_map(|row| {
                let id = row["node"].as_str()?.to_owned();
                let votes = matches!(row["values"]["role"].as_str()?, "voter" | "leader");
                (votes && !former.contains(&id)).then_some(id)
            });
            others.next()
        });
        former.push(successor);
    }
    cluster.await_ready(lost);
    cluster.await_whole();
    let written = cluster.client(lost, &key).post("/cache", json!({"key": "k", "value": "v"}));
    assert_eq!(written.status, 200, "{}", written.text());
}

#[test]
fn another_name_for_a_member_is_refused_and_its_own_is_no_change() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    for number in 0..3 {
        let add = |address: String| {
            cluster.admin(leader, "POST", "/admin/cluster/add", &json!({ "address": address }).to_string())
        };
        let peer = cluster.nodes[number].peer;
        assert_eq!(add(peer.to_string()).status, 200);
        let refused = add(format!("localhost:{}", peer.port()));
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains(&format!("answers at {peer}")), "{}", refused.text());
    }
    for junk in ["", "foo", ":", "h:99999", "a b:1"] {
        let refused = cluster.admin(leader, "POST", "/admin/cluster/add", &json!({ "address": junk }).to_string());
        assert_eq!(refused.status, 400, "{junk}: {}", refused.text());
    }
}

#[test]
fn an_old_copy_of_a_directory_is_found_out_by_the_leader() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let node = (leader + 1) % 3;
    cluster.stop(node);
    let copy = cluster.nodes[node].dir.with_extension("copy");
    cluster.copy_data(node, &copy);
    cluster.restart(node);
    let write = |cluster: &Cluster, n: usize| {
        let answer = cluster.client(leader, &key).post("/vs", json!({"key": format!("k{n}"), "value": "v"}));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    (0..20).for_each(|n| write(&cluster, n));
    cluster.await_whole();
    cluster.stop(node);
    let present = cluster.nodes[node].dir.with_extension("present");
    std::fs::rename(&cluster.nodes[node].dir, &present).unwrap();
    std::fs::rename(&copy, &cluster.nodes[node].dir).unwrap();
    cluster.spawn(node);
    assert_eq!(cluster.await_end(node), Some(1));
    let said = cluster.log_text(node);
    assert!(said.contains("its data directory is an old copy"), "{said}");
    write(&cluster, 20);
    // With its own directory it is itself again.
    std::fs::remove_dir_all(&cluster.nodes[node].dir).unwrap();
    std::fs::rename(&present, &cluster.nodes[node].dir).unwrap();
    cluster.restart(node);
    cluster.await_whole();
    assert_eq!(cluster.leader(), leader, "the leader has stayed all the while");
}

#[test]
fn a_copied_directory_that_runs_beside_its_original_is_found_out() {
    let mut cluster = Cluster::start(3);
    let node = (cluster.leader() + 1) % 3;
    cluster.stop(node);
    let copy = cluster.reserve();
    cluster.copy_data(node, &cluster.nodes[copy].dir);
    cluster.configure(copy);
    cluster.spawn(node);
    cluster.spawn(copy);
    // What one of them was sent is missing from the other's log, unless nothing was.
    let reasons =
        ["another process runs with this node's identity", "this node's log has lost what it had acknowledged"];
    wait_for("one of the two to say why it ends", || {
        let texts = [node, copy].map(|number| cluster.log_text(number));
        texts.iter().any(|text| reasons.iter().any(|reason| text.contains(reason))).then_some(())
    });
}
