//! Transcripts of what goes wrong: every row of the error table, bad input down to the bytes, slow and greedy clients.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Answer, BASE, Client, Server};
use serde_json::json;

/// Sends bytes on a connection of their own.
fn raw(server: &Server, bytes: &[u8]) -> Answer {
    let mut client = Client::connect(server.public);
    client.send(bytes).unwrap();
    client.read_answer("GET").unwrap()
}

fn set_limits(server: &Server, uuid: &str, limits: serde_json::Value) {
    let body = json!({"key_uuid": uuid, "limits": limits}).to_string();
    assert_eq!(server.admin("POST", "/admin/limits/set", &body).status, 200);
}

#[test]
fn errors_are_a_line_of_text_or_a_problem_document() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let request =
        |accept: &str| raw(&server, format!("GET {BASE}/nope HTTP/1.1\r\nHost: x\r\n{accept}\r\n").as_bytes());
    let text = request("");
    assert_eq!((text.status, text.text()), (404, "There is no such route"));
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    for accept in ["Accept: application/json\r\n", "Accept: text/html, application/problem+json;q=0.5\r\n"] {
        let problem = request(accept);
        assert_eq!(problem.header("content-type"), Some("application/problem+json"));
        assert_eq!(
            problem.json(),
            json!({"type": "about:blank", "title": "Not Found", "status": 404,
                "detail": "There is no such route", "code": "route_not_found"})
        );
    }
}

#[test]
fn quotas_answer_with_their_headers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, uuid) = server.create_key_with_id("tenant");
    set_limits(&server, &uuid, json!({"bytes_on_disk": 10, "bytes_in_memory": 12}));
    let mut client = server.client(&key);
    for (store, text, usage, limit, quota) in [
        ("/vs", "Disk usage limit exceeded", "x-current-disk-usage", "x-disk-usage-limit", "10"),
        ("/cache", "Memory usage limit exceeded", "x-current-memory-usage", "x-memory-usage-limit", "12"),
    ] {
        assert_eq!(client.post(store, json!({"key": "k", "value": "12345678"})).status, 200);
        let refused = client.post(store, json!({"key": "l", "value": "1234"}));
        assert_eq!((refused.status, refused.text()), (400, text));
        assert_eq!((refused.header(usage), refused.header(limit)), (Some("9"), Some(quota)));
        assert_eq!(refused.header("x-insidb-revision"), Some("1"));
        assert_eq!(refused.header("x-insidb-cache-generation").is_some(), store == "/cache");
    }
    // Under the usage: shrinking goes on, growing does not.
    set_limits(&server, &uuid, json!({"bytes_on_disk": 1}));
    assert_eq!(client.post("/vs", json!({"key": "k", "value": "1234567"})).status, 200);
    assert_eq!(client.post("/vs", json!({"key": "k", "value": "12345678"})).status, 400);
    assert_eq!(client.request("DELETE", "/vs?key=k", "").status, 200);
    assert_eq!(
        client.get("/limits").json(),
        json!({"usage": {"bytes_on_disk": 0, "bytes_in_memory": 9},
            "max_limits": {"bytes_on_disk": 1, "bytes_in_memory": 12, "rate_per_second_data_limit": 25}})
    );
}

#[test]
fn a_full_cache_takes_no_more_and_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_CACHE_BYTES_MAX", "1048576")]);
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    let half = "x".repeat(600_000);
    assert_eq!(client.post("/cache", json!({"key": "a", "value": half})).status, 200);
    let full = client.post("/cache", json!({"key": "b", "value": half}));
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    assert_eq!(full.text(), "The node's cache memory is full; nothing was done, and reads go on");
    assert_eq!(client.post("/cache", json!({"key": "a", "value": half})).status, 200, "it does not grow");
    assert_eq!(client.get("/cache?key=a").status, 200);
    assert_eq!(client.request("DELETE", "/cache?key=a", "").status, 200);
    assert_eq!(client.post("/cache", json!({"key": "b", "value": half})).status, 200);
}

#[test]
fn the_rate_limit_is_shared_by_a_key_and_its_aliases() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, uuid) = server.create_key_with_id("tenant");
    set_limits(&server, &uuid, json!({"rate_per_second_data_limit": 2}));
    let mut client = server.client(&key);
    let alias = client.request("POST", "/alias/set", "").json()["alias"].as_str().unwrap().to_owned();
    let mut through_alias = server.client(&alias);
    assert_eq!(client.get("/vs?key=k").status, 404);
    assert_eq!(through_alias.get("/cache?key=k").status, 404);
    // Two tokens a second come back: more requests than that, in turns, are soon refused.
    let mut turns = (0..1_000).flat_map(|_| [client.get("/vs?key=k"), through_alias.get("/cache?key=k")]);
    let refused = turns.find(|answer| answer.status == 429).expect("the tokens are spent");
    drop(turns);
    assert_eq!(refused.text(), "Rate limit exceeded");
    for (name, value) in [("retry-after", "1"), ("x-ratelimit-limit", "2"), ("x-ratelimit-burst", "2")] {
        assert_eq!(refused.header(name), Some(value));
    }
    assert_eq!(client.get("/limits").status, 200, "only data operations count");
    set_limits(&server, &uuid, json!({"rate_per_second_data_limit": 0}));
    assert_eq!(through_alias.get("/vs?key=k").status, 429);
    set_limits(&server, &uuid, json!({"rate_per_second_data_limit": 1_000_000}));
    assert_eq!(through_alias.get("/vs?key=k").status, 404);
    // A refused request with a body leaves the connection usable, and no header lifts the limit.
    set_limits(&server, &uuid, json!({"rate_per_second_data_limit": 0}));
    assert_eq!(client.post("/vs", json!({"key": "k", "value": "v"})).status, 429);
    assert_eq!(client.get("/ping").status, 200);
}

#[test]
fn addresses_are_limited_and_proxies_believed_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("INSIDB_PERMITTED_IPS", "127.0.0.1, 10.0.0.0/8"),
        ("INSIDB_TRUSTED_PROXIES", "127.0.0.1"),
        ("INSIDB_ADDRESS_RATE_VALUES", "1"),
    ];
    let server = Server::start_with(dir.path(), &[], &environment);
    let request = |path: &str, forwarded: &str| {
        raw(&server, format!("GET {BASE}{path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {forwarded}\r\n\r\n").as_bytes())
    };
    assert_eq!(request("/ping", "10.1.1.1").status, 401);
    let outside = request("/ping", "10.1.1.1, 192.168.0.1");
    assert_eq!((outside.status, outside.text()), (403, "This address may not use this node (see permitted_ips)"));
    assert_eq!(request("/vs?key=a", "10.2.2.2").status, 401);
    let mut answers = (0..1_000).map(|_| request("/vs?key=a", "10.2.2.2"));
    let limited = answers.find(|answer| answer.status == 429).expect("one a second, and these come faster");
    assert_eq!(limited.header("x-ratelimit-limit"), Some("1"));
    assert_eq!(request("/cache?key=a", "10.2.2.2").status, 401, "each class has its own");
    assert_eq!(request("/vs?key=a", "10.3.3.3").status, 401, "each address has its own");
}

#[test]
fn wrong_methods_and_encodings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    for (method, path, allow) in [
        ("PUT", "/vs", "DELETE, GET, HEAD, POST"),
        ("OPTIONS", "/vs/setnx", "POST"),
        ("DELETE", "/limits", "GET, HEAD"),
        ("PATCH", "/cache/iterate", "GET, HEAD, POST"),
    ] {
        let answer = client.request(method, path, "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    let head = format!("POST {BASE}/vs HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n");
    let encoded = raw(&server, format!("{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes());
    assert_eq!((encoded.status, encoded.text()), (415, "Send the body without a Content-Encoding"));
    let body = r#"{"key":"k","value":"v"}"#;
    let form = format!("{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 23\r\n\r\n{body}");
    assert_eq!(raw(&server, form.as_bytes()).status, 200);
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n12\r\n{}\r\n0\r\n\r\n", &body[..5], &body[5..]);
    let chunked = raw(&server, chunked.as_bytes());
    assert_eq!((chunked.status, chunked.header("connection")), (200, None));
    let mut bytes = format!("{head}Content-Length: 3\r\n\r\n").into_bytes();
    bytes.extend_from_slice(b"\"\xff\"");
    let not_text = raw(&server, &bytes);
    assert_eq!((not_text.status, not_text.text()), (400, "The body is not UTF-8"));
}

#[test]
fn heads_that_are_no_requests_are_answered_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_HEADER_TIMEOUT_MS", "300")]);
    let long = "a".repeat(65_535);
    let longer = "a".repeat(200_000);
    for (bytes, status, text) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "The URL is over 65534 bytes"),
        (format!("GET /{longer} HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "The URL is over 65534 bytes"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {longer}\r\n\r\n"), 431, "The headers are too large"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)), 431, "The headers are too large"),
        ("nonsense\r\n\r\n".to_owned(), 400, "This is no HTTP/1.1 request"),
        ("GET / HTTP/1.1\r\nHost".to_owned(), 408, "The request did not arrive in time"),
    ] {
        let answer = raw(&server, bytes.as_bytes());
        assert_eq!(answer.status, status);
        assert!(answer.text().starts_with(text), "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // The longest legal URL finds its key.
    let root = server.root_key.clone();
    let path = format!("{BASE}/vs?key=");
    let key = "k".repeat(65_534 - path.len());
    let request = format!("GET {path}{key} HTTP/1.1\r\nHost: x\r\nAuthorization: {root}\r\n\r\n");
    assert_eq!(raw(&server, request.as_bytes()).text(), "Key not found");
}

#[test]
fn bodies_that_stall_or_are_too_long_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("INSIDB_BODY_STALL_TIMEOUT_MS", "300"), ("INSIDB_MAX_VALUE_SIZE", "1000")];
    let server = Server::start_with(dir.path(), &[], &environment);
    let key = server.create_key("tenant");
    let head = format!("POST {BASE}/vs HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n");
    let stalled = raw(&server, format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes());
    assert_eq!((stalled.status, stalled.text()), (408, "The body did not arrive in time"));
    assert_eq!(stalled.header("connection"), Some("close"));
    let long = raw(&server, format!("{head}Content-Length: 1000000000\r\n\r\n").as_bytes());
    assert_eq!((long.status, long.text(), long.header("connection")), (400, "Value is too large", Some("close")));
    // The answer arrives although the client goes on to send more than any buffer holds.
    let greedy = format!("{head}Content-Length: 20000000\r\n\r\n{}", "x".repeat(20_000_000));
    assert_eq!(raw(&server, greedy.as_bytes()).text(), "Value is too large");
    let endless =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(20));
    assert_eq!(raw(&server, endless.as_bytes()).text(), "Value is too large");
}

#[test]
fn expect_continue_head_and_pipelines_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let head = format!("Host: x\r\nAuthorization: {key}\r\n");
    let body = r#"{"key":"k","value":"v"}"#;

    let mut patient = Client::connect(server.public);
    let expecting = format!("POST {BASE}/vs HTTP/1.1\r\n{head}Expect: 100-continue\r\nContent-Length: 23\r\n\r\n");
    patient.send(expecting.as_bytes()).unwrap();
    assert_eq!(patient.read_answer("POST").unwrap().status, 100);
    patient.send(body.as_bytes()).unwrap();
    assert_eq!(patient.read_answer("POST").unwrap().status, 200);
    // One that is refused is not asked for its body.
    let refused = expecting.replace(&key, "insi_wrong");
    patient.send(refused.as_bytes()).unwrap();
    let answer = patient.read_answer("POST").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));

    let mut pipelining = Client::connect(server.public);
    let set = format!("POST {BASE}/vs HTTP/1.1\r\n{head}Content-Length: 23\r\n\r\n{body}");
    let get = format!("GET {BASE}/vs?key=k HTTP/1.1\r\n{head}\r\n");
    pipelining.send(format!("{set}{get}{set}{get}").repeat(10).as_bytes()).unwrap();
    for round in 0..10 {
        for revision in [2 * round + 2, 2 * round + 3] {
            let revision = revision.to_string();
            assert_eq!(pipelining.read_answer("POST").unwrap().header("x-insidb-revision"), Some(revision.as_str()));
            let found = pipelining.read_answer("GET").unwrap();
            assert_eq!((found.text(), found.header("x-insidb-revision")), (r#"{"data":"v"}"#, Some(revision.as_str())));
        }
    }

    let mut client = server.client(&key);
    for path in ["/vs?key=k", "/vs?key=absent", "/limits", "/vs/iterate?prefix=k"] {
        let (got, headed) = (client.get(path), client.request("HEAD", path, ""));
        assert_eq!(got.status, headed.status, "{path}");
        for name in ["content-length", "content-type", "x-insidb-revision"] {
            assert_eq!(got.header(name), headed.header(name), "{path} {name}");
        }
    }
}

#[test]
fn a_client_that_closes_its_side_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    for n in 1..=20 {
        let body = format!(r#"{{"key":"n","value":"{n}"}}"#);
        let head = format!(
            "POST /db/api/v1/vs HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut client = Client::connect(server.public);
        client.send(format!("{head}{body}").as_bytes()).unwrap();
        client.close_sending();
        assert_eq!(client.read_answer("POST").unwrap().status, 200);
        assert_eq!(server.client(&key).get("/vs?key=n").json()["data"], json!(n.to_string()));
    }
}

#[test]
fn head_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    let answer = client.request("HEAD", "/alias/set", "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, POST")));
    assert_eq!(client.get("/alias/list").json(), json!({"aliases": []}));
}

#[test]
fn another_transfer_coding_is_an_encoded_body() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = Client::connect(server.public);
    let head = format!(
        "POST /db/api/v1/vs HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    );
    client.send(format!("{head}0\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.read_answer("POST").unwrap().status, 415);
}
