//! A request whose body comes late: what an admin changed in between is in force when it is there.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Client, Late, Server, wait_for};
use serde_json::{Value, json};

/// Bodies that each route takes while `k` is `v` in both stores.
fn requests() -> Vec<(&'static str, Value)> {
    let set = json!({"key": "k", "value": "longer"});
    let cas = json!({"key": "k", "old_value": "v", "new_value": "longer"});
    vec![
        ("/cache", set.clone()),
        ("/cache/setnx", json!({"key": "new", "value": "longer"})),
        ("/cache/cas", cas.clone()),
        ("/cache/delete", json!({"key": "k"})),
        ("/cache/get", json!({"key": "k"})),
        ("/cache/iterate", json!({"prefix": "k"})),
        ("/vs", set),
        ("/vs/cas", cas),
        ("/vs/bump", json!({"key": "n", "value": "1"})),
        ("/vs/get", json!({"key": "k"})),
        ("/vs/iterate", json!({"prefix": "k"})),
    ]
}

/// A tenant with `k` = `v` in both stores: its key, and the key's public id.
fn tenant(server: &Server) -> (String, String) {
    let (key, uuid) = server.create_key_with_id("tenant");
    for store in ["/vs", "/cache"] {
        assert_eq!(server.client(&key).post(store, json!({"key": "k", "value": "v"})).status, 200);
    }
    (key, uuid)
}

fn administer(server: &Server, path: &str, body: &Value) {
    assert_eq!(server.admin("POST", path, &body.to_string()).status, 200);
}

/// What the node holds in a store, over all tenants: keys, and their bytes with the values'.
fn stored(server: &Server, store: &str) -> (u64, u64) {
    let mut client = Client::connect(server.private);
    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let metrics = client.read_answer("GET").unwrap();
    let number = |name: &str| {
        let wanted = format!("{name}{{store=\"{store}\"}} ");
        metrics.text().lines().find_map(|line| line.strip_prefix(&wanted)).unwrap().parse().unwrap()
    };
    (number("insidb_stored_keys"), number("insidb_stored_bytes"))
}

#[test]
fn a_key_deleted_while_the_body_is_on_its_way_reads_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, uuid) = tenant(&server);
    let late: Vec<_> = requests().iter().map(|(path, body)| (*path, Late::begin(&server, &key, path, body))).collect();
    administer(&server, "/admin/api/delete", &json!({"key_uuid": uuid}));
    let mut late = late.into_iter();
    for (path, request) in late.by_ref().take(4) {
        let answer = request.finish();
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
    }
    // The others come when the removal of the scope is over, and its marks with it.
    wait_for("the deleted scope's data to be gone", || {
        (stored(&server, "vs") == (0, 0) && stored(&server, "cache") == (0, 0)).then_some(())
    });
    for (path, request) in late {
        assert_eq!(request.finish().status, 401, "{path}");
    }
    for store in ["vs", "cache"] {
        assert_eq!(stored(&server, store), (0, 0), "{store}");
    }
}

#[test]
fn an_alias_deleted_while_the_body_is_on_its_way_reads_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, _) = tenant(&server);
    let mut owner = server.client(&key);
    let alias = owner.request("POST", "/alias/set", "").json()["alias"].as_str().unwrap().to_owned();
    let late: Vec<_> =
        requests().iter().map(|(path, body)| (*path, Late::begin(&server, &alias, path, body))).collect();
    assert_eq!(owner.post("/alias/delete", json!({"alias": alias})).status, 200);
    for (path, request) in late {
        assert_eq!(request.finish().status, 401, "{path}");
    }
    for store in ["vs", "cache"] {
        assert_eq!(stored(&server, store), (1, 2), "{store}");
    }
    assert_eq!(owner.get("/cache?key=k").json(), json!({"data": "v"}), "its owner goes on");
}

#[test]
fn limits_lowered_while_the_body_is_on_its_way_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, uuid) = tenant(&server);
    for (store, limit, text) in [
        ("/cache", "bytes_in_memory", "Memory usage limit exceeded"),
        ("/vs", "bytes_on_disk", "Disk usage limit exceeded"),
    ] {
        let late = Late::begin(&server, &key, store, &json!({"key": "k", "value": "longer"}));
        administer(&server, "/admin/limits/set", &json!({"key_uuid": uuid, "limits": {limit: 3}}));
        let refused = late.finish();
        assert_eq!((refused.status, refused.text()), (400, text));
    }
    let usage = server.client(&key).get("/limits").json()["usage"].clone();
    assert_eq!(usage, json!({"bytes_on_disk": 2, "bytes_in_memory": 2}));
}
