//! Clients that are slow, silent or too many: each is cut off or refused in its time, and the others are served.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod harness;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use harness::{BASE, Client, Late, Server, https, wait_for};
use serde_json::json;

/// Returns once a request of this client is refused as one too many.
fn wait_for_overload(client: &mut Client, request: impl Fn(&mut Client) -> harness::Answer) {
    let refused = wait_for("the node to be overloaded", || {
        let answer = request(client);
        (answer.status == 503).then_some(answer)
    });
    assert_overloaded(&refused);
}

fn assert_overloaded(refused: &harness::Answer) {
    assert_eq!(refused.text(), "The node is overloaded; nothing was done, try again shortly");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn requests_in_flight_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_REQUESTS_IN_FLIGHT_MAX", "1")]);
    let root = server.root_key.clone();
    let mut client = server.client(&root);
    let late = Late::begin(&server, &root, "/vs", &json!({"key": "k", "value": "v"}));
    wait_for_overload(&mut client, |client| client.get("/ping"));
    // Monitors are answered all the same.
    let mut monitor = Client::connect(server.private);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(monitor.get(path).status, 200, "{path}");
    }
    assert_eq!(late.finish().status, 200);
    assert_eq!(client.get("/vs?key=k").json(), json!({"data": "v"}));
}

#[test]
fn bytes_of_bodies_in_flight_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("INSIDB_MAX_VALUE_SIZE", "1000"), ("INSIDB_BODY_BYTES_IN_FLIGHT_MAX", "22096")];
    let server = Server::start_with(dir.path(), &[], &environment);
    let root = server.root_key.clone();
    let mut client = server.client(&root);
    // A field that nobody knows makes a body large, and not illegal.
    let padded = |bytes: usize| json!({"key": "k", "value": "v", "padding": "x".repeat(bytes)});
    let begin = || Late::begin(&server, &root, "/vs", &padded(20_000));
    let mut late = begin();
    let set = |client: &mut Client| client.post("/vs", padded(15_000));
    let refused = wait_for("a body to find no room", || {
        let answer = set(&mut client);
        if answer.status == 503 {
            return Some(answer);
        }
        // It may have come before the late one, and that one have been refused.
        late = begin();
        None
    });
    assert_overloaded(&refused);
    assert_eq!(client.get("/ping").status, 200, "what has no body goes on");
    assert_eq!(late.finish().status, 200);
    assert_eq!(set(&mut client).status, 200);
}

#[test]
fn connections_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_CONNECTIONS_MAX", "1")]);
    let root = server.root_key.clone();
    let mut first = server.client(&root);
    assert_eq!(first.get("/ping").status, 200);
    let turned_away = Client::connect(server.public).read_answer("GET").unwrap();
    assert_eq!((turned_away.status, turned_away.header("retry-after")), (503, Some("1")));
    assert_eq!(turned_away.text(), "The node has too many connections; try again shortly");
    assert_eq!(first.get("/ping").status, 200);
    drop(first);
    wait_for_service(&server);
}

/// A connection that finds no place before the node has taken in those before it is tried again only after a second: the
/// standard library would have listened with 128 places.
#[test]
fn many_clients_may_come_at_one_moment() {
    let places: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    if places < 1_024 {
        println!("SKIPPED: the system allows {places} new connections; nothing to be seen");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.signal("STOP");
    let connect = |_| TcpStream::connect_timeout(&server.public, Duration::from_millis(900));
    let waiting: Vec<_> = (0..600).map(connect).collect();
    let refused = waiting.iter().filter(|connected| connected.is_err()).count();
    server.signal("CONT");
    assert_eq!(refused, 0, "of {}", waiting.len());
    assert_eq!(server.client(&server.root_key).get("/ping").status, 200);
}

#[test]
fn operators_are_let_in_when_tenants_fill_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_REQUESTS_IN_FLIGHT_MAX", "1")]);
    let key = server.create_key("tenant");
    let late = Late::begin(&server, &key, "/vs", &json!({"key": "k", "value": "v"}));
    wait_for_overload(&mut server.client(&key), |client| client.get("/ping"));
    assert_eq!(server.admin("GET", "/admin/cluster/status", "").status, 200);
    assert_eq!(server.admin("POST", "/admin/insight/entities", "").status, 200);
    assert_eq!(late.finish().status, 200);
}

#[test]
fn a_key_holds_no_more_places_than_it_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_REQUESTS_IN_FLIGHT_MAX", "8")]);
    let (greedy, other) = (server.create_key("greedy"), server.create_key("other"));
    let late = |key: &str| Late::begin(&server, key, "/vs", &json!({"key": "k", "value": "v"}));
    let mut slow: Vec<Late> = (0..4).map(|_| late(&greedy)).collect();
    wait_for_overload(&mut server.client(&greedy), |client| client.get("/ping"));
    assert_eq!(server.client(&other).get("/ping").status, 200);
    slow.extend([late(&other), late(&other)]);
    wait_for_overload(&mut server.client(&other), |client| client.get("/ping"));
    assert_eq!(server.client(&server.root_key).get("/ping").status, 200);
    for late in slow {
        assert_eq!(late.finish().status, 200);
    }
    wait_for("the places to be free", || (server.client(&greedy).get("/ping").status == 200).then_some(()));
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_no_key_has_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_ANSWER_BYTES_IN_FLIGHT_MAX", "20000000")]);
    let (greedy, other) = (server.create_key("greedy"), server.create_key("other"));
    let value = "x".repeat(1 << 20);
    for key in [&greedy, &other] {
        for (name, value) in [("large", value.as_str()), ("small", "v")] {
            assert_eq!(server.client(key).post("/cache", json!({"key": name, "value": value})).status, 200);
        }
    }
    // More answers on each connection than the buffers of the system hold.
    let get = format!("GET {BASE}/cache?key=large HTTP/1.1\r\nHost: x\r\nAuthorization: {greedy}\r\n\r\n");
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut client = server.client(&greedy);
        client.send(get.repeat(64).as_bytes()).unwrap();
        slow.push(client);
    }
    let mut client = server.client(&greedy);
    let refused = wait_for("the node to be overloaded", || {
        // Those that were refused meanwhile ask again, or whoever asks here would find the place of one of them.
        for client in &mut slow {
            client.send(get.as_bytes()).unwrap();
        }
        let answer = client.get("/cache?key=large");
        (answer.status == 503).then_some(answer)
    });
    assert_overloaded(&refused);
    assert_eq!(server.client(&greedy).get("/cache?key=small").status, 200);
    assert_eq!(server.client(&other).get("/cache?key=large").status, 200);
    drop(slow);
    wait_for("room for answers", || (server.client(&greedy).get("/cache?key=large").status == 200).then_some(()));
}

/// An answer takes milliseconds to write, each of these connections asks for many at once, and there are few threads. To write them
/// one behind the other took over five seconds, in which nobody else was served.
#[test]
fn long_answers_that_nobody_takes_keep_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (greedy, other) = (server.create_key("greedy"), server.create_key("other"));
    let set = |key: &str, value: &str| {
        assert_eq!(server.client(key).post("/vs", json!({"key": "k", "value": value})).status, 200);
    };
    // Six bytes in JSON for each.
    set(&greedy, &"\u{1}".repeat(1 << 20));
    set(&other, "v");
    let get = format!("GET {BASE}/vs?key=k HTTP/1.1\r\nHost: x\r\nAuthorization: {greedy}\r\n\r\n");
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut client = server.client(&greedy);
        client.send(get.repeat(20).as_bytes()).unwrap();
        slow.push(client);
    }
    let mut client = server.client(&other);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.get("/vs?key=k").status, 200);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn connections_leave_the_node_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("INSIDB_MAX_VALUE_SIZE", "65536"),
        ("INSIDB_LOG_SEGMENT_BYTES", "1048576"),
        ("INSIDB_CHECKPOINT_BYTES", "1048576"),
    ];
    let server = Server::start_with_files(dir.path(), 256, &environment);
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    assert_eq!(client.get("/ping").status, 200);
    // More than it may have open. Some are turned away with a word, the others without.
    let _many: Vec<Client> = (0..400).map(|_| Client::connect(server.public)).collect();
    let value = "x".repeat(60_000);
    for n in 0..800 {
        // Many segments of the log, and checkpoints.
        let answer = client.post("/vs", json!({"key": format!("k{n}"), "value": value}));
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
    }
    assert_eq!(server.admin("GET", "/admin/cluster/status", "").status, 200);
    assert_eq!(client.get("/vs?key=k799").json(), json!({ "data": value }));
}

/// Returns once the public listener has a place for a new connection.
fn wait_for_service(server: &Server) {
    wait_for("a free place", || {
        let answer = server.client(&server.root_key).try_request("GET", "/ping", "").ok()?;
        (answer.status == 200).then_some(())
    });
}

#[test]
fn tls_handshakes_are_bounded_in_number_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let environment = [
        ("INSIDB_PUBLIC_TLS_CERTIFICATE", certificate.to_str().unwrap()),
        ("INSIDB_PUBLIC_TLS_KEY", key.to_str().unwrap()),
        ("INSIDB_TLS_HANDSHAKE_TIMEOUT_MS", "2000"),
        ("INSIDB_CONNECTIONS_MAX", "1"),
    ];
    let server = Server::start_with(&dir.path().join("node"), &[], &environment);
    let mut silent = Client::connect(server.public);
    let turned_away = https(server.public, &certificate);
    assert!(turned_away.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{turned_away}");
    assert!(turned_away.contains("\r\nretry-after: 1\r\n"), "{turned_away}");
    assert!(silent.read_to_close().is_empty());
    wait_for("a free place", || https(server.public, &certificate).starts_with("HTTP/1.1 401 ").then_some(()));
}

#[test]
fn idle_connections_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    // The head's time is longer than the test is patient: it is not what ends these connections.
    let environment = [("INSIDB_IDLE_TIMEOUT_MS", "100"), ("INSIDB_HEADER_TIMEOUT_MS", "3600000")];
    let server = Server::start_with(dir.path(), &[], &environment);
    let mut silent = Client::connect(server.public);
    assert!(silent.read_to_close().is_empty());
    let mut client = Client::connect(server.public);
    client.send(format!("GET {BASE}/ping HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.read_answer("GET").unwrap().status, 401);
    assert!(client.read_to_close().is_empty());
}

#[test]
fn a_client_that_does_not_read_its_value_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("INSIDB_WRITE_TIMEOUT_MS", "300"), ("INSIDB_CONNECTIONS_MAX", "1")];
    let server = Server::start_with(dir.path(), &[], &environment);
    let root = server.root_key.clone();
    let mut slow = server.client(&root);
    // A pipeline of answers that no buffer of the system holds.
    let value = "x".repeat(1 << 20);
    assert_eq!(slow.post("/cache", json!({"key": "k", "value": value})).status, 200);
    let answers = 64;
    let get = format!("GET {BASE}/cache?key=k HTTP/1.1\r\nHost: x\r\nAuthorization: {root}\r\n\r\n");
    slow.send(get.repeat(answers).as_bytes()).unwrap();
    wait_for_service(&server);
    assert!(slow.read_to_close().len() < answers << 20, "the rest was never sent");
}

#[test]
fn a_client_that_does_not_read_its_page_gives_the_scan_back() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("INSIDB_MAX_VALUE_SIZE", "8388608"),
        // Longer than another request for a page waits, which is a second.
        ("INSIDB_WRITE_TIMEOUT_MS", "5000"),
        ("INSIDB_SCANS_MAX", "1"),
    ];
    let server = Server::start_with(dir.path(), &[], &environment);
    let root = server.root_key.clone();
    let mut client = server.client(&root);
    for n in 0..10 {
        let key = format!("{n}{}", "k".repeat(6 << 20));
        assert_eq!(client.post("/cache", json!({"key": key, "value": ""})).status, 200);
    }
    let mut slow = server.client(&root);
    let page = format!("GET {BASE}/cache/iterate HTTP/1.1\r\nHost: x\r\nAuthorization: {root}\r\n\r\n");
    slow.send(page.as_bytes()).unwrap();
    let other_page = |client: &mut Client| client.get("/cache/iterate?prefix=none");
    wait_for_overload(&mut client, other_page);
    wait_for("the scan to be free", || (other_page(&mut client).status == 200).then_some(()));
    assert!(slow.read_to_close().len() < 60 << 20, "the rest was never sent");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let root = server.root_key.clone();
    // A request that would hold the orderly stop up.
    let late = Late::begin(&server, &root, "/vs", &json!({"key": "k", "value": "v"}));
    server.signal("TERM");
    wait_for("the listener to close", || Client::try_connect(server.public).is_err().then_some(()));
    server.signal("INT");
    assert_eq!(server.wait(), Some(1));
    drop(late);
    // Nothing acknowledged is lost by it.
    let server = Server::start(dir.path());
    assert_eq!(server.client(&root).get("/vs?key=k").status, 404);
}
