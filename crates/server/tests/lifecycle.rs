//! Starting, stopping, deleting: what survives, what is gone, and what is refused.

#![allow(clippy::unwrap_used)]

mod harness;

use std::{io::Read, path::Path};

use harness::{Client, Server, spawn, wait_for};
use serde_json::json;

#[test]
fn an_orderly_stop_keeps_the_values_and_drops_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    for store in ["vs", "cache"] {
        assert_eq!(client.post(&format!("/{store}"), json!({"key": "k", "value": "v"})).status, 200);
    }
    let generation = client.get("/cache?key=k").header("x-insidb-cache-generation").unwrap().to_owned();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));

    let server = Server::start(dir.path());
    let mut client = server.client(&key);
    assert_eq!(client.get("/vs?key=k").json(), json!({"data": "v"}));
    let gone = client.get("/cache?key=k");
    assert_eq!(gone.status, 404);
    assert_ne!(gone.header("x-insidb-cache-generation").unwrap(), generation);
    let usage = client.get("/limits").json()["usage"].clone();
    assert_eq!(usage, json!({"bytes_on_disk": 2, "bytes_in_memory": 0}));
}

#[test]
fn a_request_in_flight_is_finished_before_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = Client::connect(server.public);
    let body = json!({"key": "k", "value": "v"}).to_string();
    let head = format!(
        "POST /db/api/v1/vs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).unwrap();
    client.send(&body.as_bytes()[..5]).unwrap();
    // The request is in hand once another connection's answer shows it among those in flight.
    let mut watcher = Client::connect(server.private);
    wait_for("the request to be in flight", || {
        watcher.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let metrics = watcher.read_answer("GET").unwrap();
        let line = metrics.text().lines().find(|line| line.starts_with("insidb_http_requests_in_flight"))?.to_owned();
        let in_flight: f64 = line.rsplit(' ').next()?.parse().ok()?;
        (in_flight >= 1.0).then_some(())
    });
    server.signal("TERM");
    wait_for("the listener to close", || Client::try_connect(server.public).is_err().then_some(()));
    client.send(&body.as_bytes()[5..]).unwrap();
    assert_eq!(client.read_answer("POST").unwrap().status, 200);
    assert_eq!(server.wait(), Some(0));
    let server = Server::start(dir.path());
    assert_eq!(server.client(&key).get("/vs?key=k").json(), json!({"data": "v"}));
}

#[test]
fn a_connection_that_is_kept_open_is_served_once_more_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut kept: Vec<Client> = (0..8).map(|_| server.client(&key)).collect();
    for client in &mut kept {
        let answer = client.post("/vs", json!({"key": "k", "value": "before"}));
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    server.signal("TERM");
    wait_for("the listener to close", || Client::try_connect(server.public).is_err().then_some(()));
    for (n, client) in kept.iter_mut().enumerate() {
        let answer = client.post("/vs", json!({"key": format!("k{n}"), "value": "at the stop"}));
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{n}");
    }
    assert_eq!(server.wait(), Some(0));
    let server = Server::start(dir.path());
    for n in 0..kept.len() {
        let answer = server.client(&key).get(&format!("/vs?key=k{n}"));
        assert_eq!(answer.json(), json!({"data": "at the stop"}), "{n}");
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut second = spawn(dir.path(), &[], &[]);
    let status = wait_for("the second process to end", || second.try_wait().unwrap());
    let mut said = String::new();
    second.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another insid process"), "{said}");
    // The first one is none the worse for it.
    let root = server.root_key.clone();
    assert_eq!(server.client(&root).get("/ping").status, 200);
}

/// Starts a server that must refuse to start, and returns what it says.
fn refusal(dir: &Path) -> String {
    let mut child = spawn(dir, &[], &[]);
    let ended = wait_for("the start to be refused, or not", || {
        let served = dir.join("addresses.json").exists();
        child.try_wait().unwrap().map(Some).or(served.then_some(None))
    });
    let Some(status) = ended else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("the server started");
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_lost_log_or_store_is_not_started_over() {
    let lost = [
        (&["log", "store"][..], "its log is empty"),
        (&["store"][..], "the store was lost or is an older copy"),
        (&["log"][..], "the log was lost or is an older copy"),
    ];
    for (directories, sentence) in lost {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let key = server.create_key("tenant");
        let mut client = server.client(&key);
        for n in 0..20 {
            assert_eq!(client.post("/vs", json!({"key": format!("k{n}"), "value": "v"})).status, 200);
        }
        // An orderly stop makes a checkpoint and purges the log up to it.
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
        for directory in directories {
            std::fs::remove_dir_all(dir.path().join(directory)).unwrap();
        }
        let said = refusal(dir.path());
        assert!(said.contains(sentence), "{directories:?} lost: {said}");
    }
}

#[test]
fn another_nodes_store_is_refused() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        let server = Server::start(dir.path());
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
    }
    let store = |dir: &tempfile::TempDir| dir.path().join("store").join("floor.redb");
    std::fs::copy(store(&dirs[0]), store(&dirs[1])).unwrap();
    let said = refusal(dirs[1].path());
    assert!(said.contains("is another node's"), "{said}");
}

#[test]
fn a_store_larger_than_its_memory_works() {
    let dir = tempfile::tempdir().unwrap();
    let small = [
        ("INSIDB_VALUES_DIRTY_BYTES_MAX", "4194304"),
        ("INSIDB_VALUES_PAGE_CACHE_BYTES", "1048576"),
        ("INSIDB_CHECKPOINT_BYTES", "1048576"),
        ("INSIDB_LOG_SEGMENT_BYTES", "1048576"),
    ];
    let server = Server::start_with(dir.path(), &[], &small);
    let key = server.create_key("tenant");
    let value = |n: usize| format!("{n:08}").repeat(8_000);
    let mut client = server.client(&key);
    for n in 0..800 {
        let answer = client.post("/vs", json!({"key": format!("k{n}"), "value": value(n)}));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    server.kill();
    let server = Server::start_with(dir.path(), &[], &small);
    let mut client = server.client(&key);
    for n in 0..800 {
        assert_eq!(client.get(&format!("/vs?key=k{n}")).json()["data"], json!(value(n)), "k{n}");
    }
    let bytes: usize = (0..800).map(|n| format!("k{n}").len() + 64_000).sum();
    assert_eq!(client.get("/limits").json()["usage"]["bytes_on_disk"], json!(bytes));
    // Of the log of 51 MB of writes there is the segment in use and the next one: the checkpoints hold the rest.
    let log_bytes: u64 =
        std::fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(log_bytes < bytes as u64 * 3 / 4, "the log holds {log_bytes} bytes");
}

#[test]
fn a_deleted_tenant_leaves_nothing_in_either_store() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let root = server.root_key.clone();
    let (key, uuid) = server.create_key_with_id("doomed");
    let limits = json!({"key_uuid": uuid, "limits": {"rate_per_second_data_limit": 1_000_000}});
    server.admin("POST", "/admin/limits/set", &limits.to_string());
    let mut client = server.client(&key);
    for store in ["vs", "cache"] {
        for n in 0..1_500 {
            let answer = client.post(&format!("/{store}"), json!({"key": format!("k{n}"), "value": "x".repeat(50)}));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let neighbour = server.create_key("neighbour");
    server.client(&neighbour).post("/vs", json!({"key": "k", "value": "stays"}));
    let before = totals(&server);

    assert_eq!(server.admin("POST", "/admin/api/delete", &json!({"key_uuid": uuid}).to_string()).status, 200);
    assert_eq!(client.get("/vs?key=k0").status, 401, "the key is dead when the delete is acknowledged");
    assert_eq!(client.post("/cache", json!({"key": "k", "value": "v"})).status, 401);
    // Killed in the middle of the removal, it goes on after the restart.
    server.kill();
    let server = Server::start(dir.path());
    wait_for("the scope to be removed", || (totals(&server) == (1, 6)).then_some(()));
    assert!(before.0 > 1_500, "there was something to remove: {before:?}");
    assert_eq!(server.client(&neighbour).get("/vs?key=k").json(), json!({"data": "stays"}));
    assert_eq!(server.client(&root).get("/limits").json()["usage"], json!({"bytes_on_disk": 0, "bytes_in_memory": 0}));
}

/// Live keys and bytes of the Value Store, over all scopes.
fn totals(server: &Server) -> (u64, u64) {
    let mut client = Client::connect(server.private);
    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let metrics = client.read_answer("GET").unwrap();
    let number = |name: &str| {
        let wanted = format!("{name}{{store=\"vs\"}}");
        let line =
            metrics.text().lines().find(|line| line.starts_with(&wanted)).unwrap_or_else(|| panic!("no {wanted}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    (number("insidb_stored_keys"), number("insidb_stored_bytes"))
}
