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
    time::{Duration, Instant},
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
        self.fill_with("ballast")
    }

    fn fill_with(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        let mut file = File::create(&path).unwrap();
        let block = vec![1_u8; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
        path
    }

    /// How much is free, in bytes.
    fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.0).unwrap();
        found.f_bfree * found.f_frsize
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
    let listeners = [server.public, server.private];
    server.kill();
    // Not one byte is free: first what it needs is there from its last run, then its addresses cannot be written down.
    for is_written_down in [true, false] {
        if !is_written_down {
            std::fs::remove_file(data.join("addresses.json")).unwrap();
        }
        let rest = disk.fill_with("rest");
        assert_eq!(disk.free_bytes(), 0);
        let server = Server::start_at(&data, listeners);
        assert_eq!(server.client(&key).get("/vs?key=before").json(), json!({"data": "kept"}));
        assert_eq!(data.join("addresses.json").exists(), is_written_down);
        server.kill();
        std::fs::remove_file(rest).unwrap();
    }
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
        assert_a_client_reads_on(&cluster, &key, full, leads);
        if let Some(fit) = (0..3).find(|number| *number != full && *number != cluster.leader()) {
            refuse_removal(&cluster, fit);
        }
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

/// A node that has no room for what a read needs says so at once, or that it has no lease where another leader has begun
/// since; with a client that knows another node as well, nobody sees anything of it.
fn assert_a_client_reads_on(cluster: &Cluster, key: &str, full: usize, led: bool) {
    let name = format!("kon{led}");
    let mut client = cluster.client((full + 1) % 3, key).problems();
    let set = json!({"key": name, "value": "x".repeat(500_000)});
    // What was reserved before the disk was full is used up first.
    let answer = wait_for("the full node to fall behind", || {
        let set = client.post("/vs", set.clone());
        assert!(matches!(set.status, 200 | 503), "{}", set.text());
        Some(cluster.client(full, key).problems().get("/vs?key=nothing")).filter(|answer| answer.status != 404)
    });
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    assert!(answer.status == 503 && (code == "disk_full" || led && code == "no_leader"), "{}", answer.text());
    let urls = [full, (full + 1) % 3].map(|number| format!("http://{}", cluster.nodes[number].public));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = insidb_client::Client::builder().urls(urls).key(key).build().unwrap();
        assert!(client.values().get(&name).await.unwrap().value.is_some(), "{name}");
        client.values().set(&format!("{name}-by-client"), "v").await.unwrap();
    });
}

/// With the disks of two of three nodes full, nothing can be written, and everything that was can be read: the leader holds
/// on to what it has, also one whose own disk is full, since no other could commit anything.
#[test]
fn full_disks_on_two_of_three_leave_the_reads_and_the_cache() {
    for leads in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(3);
        let (key, _) = cluster.create_key(0, "tenant");
        let mut disks = Vec::new();
        for number in 1..3 {
            let at = dir.path().join(format!("disk{number}"));
            std::fs::create_dir(&at).unwrap();
            let Some(disk) = SmallDisk::mount(&at, "160m") else {
                println!("SKIPPED: mounting a file system is not permitted here; full disks were not tried");
                return;
            };
            cluster.kill(number);
            move_data(&mut cluster, number, &at.join("data"));
            cluster.restart(number);
            cluster.await_voters();
            disks.push(disk);
        }
        transfer(&cluster, if leads { 1 } else { 0 });
        let leader = cluster.leader();
        let mut ballast = vec![disks[1].fill()];
        let mut taken = Vec::new();
        if leads {
            // Else the leader hands over before it knows that the other one will be full with it.
            let says_so = |cluster: &Cluster| cluster.log_text(2).contains("no room");
            write_until(&cluster, &key, &mut taken, |_| says_so(&cluster));
        }
        ballast.push(disks[0].fill());
        write_until(&cluster, &key, &mut taken, |refused| refused.is_some_and(|code| code != "no_leader"));
        assert!(!leads || cluster.leader() == leader, "the full leader has handed over");
        assert_refused_at_once(&cluster, &key);
        let leader = cluster.leader();
        for _ in 0..20 {
            for number in 0..3 {
                let mut client = cluster.client(number, &key).problems();
                for name in taken.iter().rev().take(3) {
                    let answer = client.get(&format!("/vs?key={name}"));
                    // A follower that had a little less room than the other may lack the last ones.
                    let lacks_it = number != leader && answer.status == 503 && answer.json()["code"] == "disk_full";
                    assert!(answer.status == 200 || lacks_it, "leads: {leads}, node {number}: {}", answer.text());
                }
                let set = client.post("/cache", json!({"key": "k", "value": "v"}));
                assert_eq!(set.status, 200, "leads: {leads}, node {number}: {}", set.text());
                assert_eq!(client.get("/cache?key=k").status, 200, "leads: {leads}, node {number}");
            }
        }
        assert_eq!(cluster.leader(), leader, "leads: {leads}");
        ballast.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        cluster.await_voters();
        wait_for("writes to be taken again", || {
            (cluster.client(0, &key).post("/vs", json!({"key": "again", "value": "v"})).status == 200).then_some(())
        });
        for number in 0..3 {
            let mut client = cluster.client(number, &key);
            for name in &taken {
                assert_eq!(client.get(&format!("/vs?key={name}")).status, 200, "{name} through node {number}");
            }
        }
        drop(cluster);
    }
}

/// The leader knows that a majority has no room: it says so at once, and no node with room may leave.
fn assert_refused_at_once(cluster: &Cluster, key: &str) {
    let set = json!({"key": "small", "value": "v"});
    let mut client = cluster.client(0, key).problems();
    wait_for("the leader to know", || {
        let answer = client.post("/vs", set.clone());
        (answer.status == 503 && answer.json()["code"] == "disk_full").then_some(())
    });
    for _ in 0..20 {
        let begin = Instant::now();
        let answer = client.post("/vs", set.clone());
        let code = answer.json()["code"].clone();
        assert!(answer.status == 503 && code == "disk_full", "{}", answer.text());
        assert!(begin.elapsed() < Duration::from_secs(1), "refused after {:?}", begin.elapsed());
    }
    refuse_removal(cluster, 0);
}

/// A node that the others need for its room stays.
fn refuse_removal(cluster: &Cluster, node: usize) {
    let removal = json!({ "node": cluster.id(node) }).to_string();
    let other = (node + 1) % 3;
    let answer = cluster.admin(other, "POST", "/admin/cluster/remove", &removal);
    assert!(answer.status == 409 && answer.text().contains("room on its disks"), "{}", answer.text());
    assert_eq!(cluster.status(other)["nodes"].as_array().unwrap().len(), 3);
}

/// Large writes through the leader until it is enough, as judged by the code of each refusal; adds those taken.
fn write_until(cluster: &Cluster, key: &str, taken: &mut Vec<String>, is_enough: impl Fn(Option<&str>) -> bool) {
    let value = "x".repeat(500_000);
    wait_for("enough to be written", || {
        let name = format!("large{}", taken.len());
        let answer = cluster.client(cluster.leader(), key).problems().post("/vs", json!({"key": name, "value": value}));
        let code = match answer.status {
            200 => {
                taken.push(name);
                None
            }
            503 => answer.json()["code"].as_str().map(str::to_owned),
            status => panic!("answered {status}: {}", answer.text()),
        };
        is_enough(code.as_deref()).then_some(())
    });
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
