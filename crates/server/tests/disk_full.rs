//! A full disk refuses writes with a clear 503, keeps serving reads, and recovers by itself when space comes back.
//!
//! The disk is a small file system in memory that the test mounts; where that is not permitted, the test says so and
//! the same rules are covered on simulated disks in the crates below.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod harness;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use harness::{Server, books::Landmarks, cluster::Cluster, history::Traffic, wait_for};
use serde_json::json;

/// A file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "insidb-test"]).arg(at).output().ok()?;
        mount.status.success().then(|| Self(at.to_owned()))
    }

    /// Fills all of it; what comes back frees it again.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).unwrap();
        let block = vec![1_u8; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), "160m") else {
        println!("SKIPPED: mounting a file system is not permitted here; a full disk was not tried on a real one");
        return;
    };
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    assert_eq!(client.post("/vs", json!({"key": "before", "value": "kept"})).status, 200);

    let ballast = disk.fill();
    let value = "x".repeat(500_000);
    let mut acknowledged = Vec::new();
    let refusal = wait_for("a refusal", || {
        let name = format!("k{}", acknowledged.len());
        let answer = client.post("/vs", json!({"key": name, "value": value}));
        match answer.status {
            200 => acknowledged.push(name),
            503 => return Some(answer),
            status => panic!("a write on a full disk was answered {status}: {}", answer.text()),
        }
        None
    });
    assert!(refusal.header("retry-after").is_some());
    assert!(refusal.text().contains("disk"), "{}", refusal.text());
    assert_eq!(client.get("/vs?key=before").json(), json!({"data": "kept"}));
    for name in &acknowledged {
        assert_eq!(client.get(&format!("/vs?key={name}")).json()["data"], json!(value), "{name}");
    }
    // A node that starts on a full disk serves what it has.
    server.kill();
    let server = Server::start(&data);
    let mut client = server.client(&key);
    assert_eq!(client.get("/vs?key=before").json(), json!({"data": "kept"}));
    assert_eq!(client.post("/vs", json!({"key": "k", "value": value})).status, 503);
    // The cache has nothing to do with the disk.
    assert_eq!(client.post("/cache", json!({"key": "k", "value": "v"})).status, 200);

    std::fs::remove_file(ballast).unwrap();
    wait_for("writes to go on", || {
        let answer = client.post("/vs", json!({"key": "after", "value": "kept too"}));
        (answer.status == 200).then_some(())
    });
    server.kill();
    let server = Server::start(&data);
    let mut client = server.client(&key);
    for (name, value) in [("before", "kept"), ("after", "kept too")] {
        assert_eq!(client.get(&format!("/vs?key={name}")).json(), json!({ "data": value }));
    }
    for name in &acknowledged {
        assert_eq!(client.get(&format!("/vs?key={name}")).json()["data"], json!(value), "{name}");
    }
    drop(server);
    drop(disk);
}

/// Moves a stopped node's data to another place.
fn move_data(cluster: &mut Cluster, number: usize, to: &Path) {
    let from = cluster.nodes[number].dir.clone();
    let copied = Command::new("cp").arg("-a").arg(&from).arg(to).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&from).unwrap();
    cluster.nodes[number].dir = to.to_owned();
}

/// With the disk of one node of three full, reads go on everywhere, writes are taken by a leader that has room, nothing is
/// lost, and it mends itself when there is room. First with the leader's disk, which hands over and may refuse as
/// `disk_full` until it has, then with a follower's.
#[test]
fn a_full_disk_on_one_of_three_costs_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), "160m") else {
        println!("SKIPPED: mounting a file system is not permitted here; a full disk of a cluster was not tried");
        return;
    };
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let full = (0..3).find(|number| *number != cluster.leader()).unwrap();
    cluster.kill(full);
    move_data(&mut cluster, full, &dir.path().join("data"));
    cluster.restart(full);
    cluster.await_voters();
    let landmarks = Landmarks::plant(&cluster, &key);
    let traffic = Traffic::start(&cluster, &key);
    for leads in [true, false] {
        transfer(&cluster, if leads { full } else { (full + 1) % 3 });
        traffic.await_writes(100);
        let ballast = disk.fill();
        let taken = write_on_a_full_disk(&cluster, &key, full, leads);
        println!("the full node led: {leads}; large writes taken before a refusal or all the time: {}", taken.len());
        // Traffic reads through every node, the full one as well.
        traffic.await_more(50);
        std::fs::remove_file(ballast).unwrap();
        traffic.await_writes(100);
        cluster.await_voters();
        for number in 0..3 {
            let mut client = cluster.client(number, &key);
            for name in &taken {
                assert_eq!(client.get(&format!("/vs?key={name}")).status, 200, "{name} through node {number}");
            }
        }
    }
    traffic.end_and_check(&mut cluster);
    landmarks.assert_intact(&cluster, &key);
    drop(cluster);
    drop(disk);
}

fn transfer(cluster: &Cluster, to: usize) {
    let body = json!({ "node": cluster.id(to) }).to_string();
    let done = cluster.admin(to, "POST", "/admin/cluster/transfer", &body);
    assert_eq!(done.status, 200, "{}", done.text());
    wait_for("the node to lead", || (cluster.leader() == to).then_some(()));
}

/// Writes through another node until more was written than the full disk can take, and until the full node leads no more;
/// which writes were acknowledged.
fn write_on_a_full_disk(cluster: &Cluster, key: &str, full: usize, leads: bool) -> Vec<String> {
    const WRITES: usize = 80;
    let value = "x".repeat(500_000);
    let mut client = cluster.client((full + 1) % 3, key).problems();
    let mut acknowledged = Vec::new();
    let deadline = Instant::now() + harness::PATIENCE;
    while acknowledged.len() < WRITES || cluster.leader() == full {
        assert!(Instant::now() < deadline, "writes or the leadership stay, after {}", acknowledged.len());
        let name = format!("kd{leads}{}", acknowledged.len());
        let answer = client.post("/vs", json!({"key": name, "value": value}));
        match (answer.status, answer.status == 503 && answer.json()["code"] == "disk_full") {
            (200, _) => acknowledged.push(name),
            // A leader that hands over, or is replaced.
            (503, is_disk_full) if leads || !is_disk_full => {}
            (status, _) => panic!("answered {status}: {}", answer.text()),
        }
    }
    acknowledged
}
