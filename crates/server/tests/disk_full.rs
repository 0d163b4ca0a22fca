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
};

use harness::{Server, wait_for};
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
