//! Transcripts of the data operations: one script, run over both stores, so that they cannot drift apart; and the
//! paths of existing clients.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Client, Server, encode};
use serde_json::json;

/// One line per request: what was asked, the status, the revision where there is one, the body.
fn transcript(client: &mut Client, script: &str) -> String {
    let mut transcript = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (method, rest) = line.split_once(' ').unwrap();
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let answer = client.request(method, path, body);
        let revision = answer.header("x-insidb-revision").map(|it| format!(" r{it}")).unwrap_or_default();
        transcript += &format!("{line}\n  {}{revision} {}\n", answer.status, answer.text());
    }
    transcript
}

/// Runs the requests of an expected transcript, which stand at the margin; the answers are indented.
fn check(client: &mut Client, expected: &str) {
    let expected = expected.trim_start();
    let script: String =
        expected.lines().filter(|line| !line.starts_with(' ')).map(|line| format!("{line}\n")).collect();
    let found = transcript(client, &script);
    let trimmed = |text: &str| text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    assert_eq!(trimmed(&found), trimmed(expected));
}

const BOTH_STORES: &str = r#"
GET /STORE?key=a
  404 Key not found
POST /STORE {"key":"a","value":"1"}
  200 r1
POST /STORE {"key":"a","value":"1"}
  200 r2
GET /STORE?key=a
  200 r2 {"data":"1"}
POST /STORE/get {"key":"a"}
  200 r2 {"data":"1"}
POST /STORE/get?key=a
  200 r2 {"data":"1"}
POST /STORE/setnx {"key":"a","value":"2"}
  409 r2 Key already exists
POST /STORE/setnx {"key":"b","value":""}
  200 r3
POST /STORE/setnx {"key":"b","value":"x"}
  409 r3 Key already exists
GET /STORE?key=b
  200 r3 {"data":""}
POST /STORE/cas {"key":"b","old_value":"","new_value":"B"}
  200 r4
POST /STORE/cas {"key":"b","old_value":"","new_value":"C"}
  409 r4 The stored value differs, or the key is absent
POST /STORE/cas {"key":"absent","old_value":"","new_value":"C"}
  409 r4 The stored value differs, or the key is absent
DELETE /STORE {"key":"absent"}
  200 r4
DELETE /STORE?key=b
  200 r5
DELETE /STORE?key=a {"key":"a"}
  200 r6
DELETE /STORE?key=a {"key":"b"}
  400 `key` differs between the query and the body
POST /STORE?key=x {"key":"y","value":""}
  400 `key` differs between the query and the body
POST /STORE {"key":"p/é","value":"","unknown":[1,{"x":null}]}
  200 r7
POST /STORE {"key":"p/a","value":""}
  200 r8
POST /STORE {"key":"p/b","value":""}
  200 r9
POST /STORE {"key":"q","value":""}
  200 r10
GET /STORE/iterate?prefix=p/
  200 ["p/a","p/b","p/é"]
GET /STORE/iterate?prefix=p/&limit=1
  200 ["p/a"]
GET /STORE/iterate?prefix=p/&offset=1&limit=1
  200 ["p/b"]
GET /STORE/iterate?prefix=p/&after=p/b
  200 ["p/é"]
GET /STORE/iterate?prefix=p/&offset=9
  200 []
GET /STORE/iterate?prefix=nothing
  200 []
GET /STORE/iterate?prefix=p/*
  200 []
POST /STORE/iterate {"prefix":"p/","offset":1,"limit":2}
  200 ["p/b","p/é"]
POST /STORE/iterate {"prefix":"p/","after":"p/a","limit":1}
  200 ["p/b"]
GET /STORE/iterate?prefix=p/&consistency=stale
  200 ["p/a","p/b","p/é"]
GET /STORE?key=q&consistency=stale
  200 r10 {"data":""}
GET /STORE?key=q&consistency=none
  400 Parameter `consistency` must be `linearizable` or `stale`
GET /STORE/iterate
  400 Parameter `prefix` is missing or empty
GET /STORE/iterate?prefix=
  400 Parameter `prefix` is missing or empty
POST /STORE/iterate
  400 Parameter `prefix` is missing or empty
GET /STORE/iterate?prefix=p&limit=0
  400 Parameter `limit` must be 1 to 1000
GET /STORE/iterate?prefix=p&limit=1001
  400 Parameter `limit` must be 1 to 1000
GET /STORE/iterate?prefix=p&offset=-1
  400 Parameter `offset` must be a whole number, 0 or more
POST /STORE/iterate {"prefix":"p","limit":"1"}
  400 Field `limit` must be a whole number, 0 or more
GET /STORE
  400 Parameter `key` is missing
GET /STORE?key=
  400 Key is empty
GET /STORE?key=a&key=a
  400 Parameter `key` is given twice
GET /STORE?key=%ff
  400 The query is not UTF-8
GET /STORE?key=%e
  400 The query has a percent sign that no two hex digits follow
POST /STORE
  400 The body is not JSON
POST /STORE {"key":"a"
  400 The body is not JSON
POST /STORE ["a","b"]
  400 The body is not a JSON object
POST /STORE {"key":"a"}
  400 Field `value` is missing
POST /STORE {"key":"a","value":null}
  400 Field `value` must be a string
POST /STORE {"key":1,"value":""}
  400 Field `key` must be a string
POST /STORE {"key":"a","value":"","value":""}
  400 Field `value` is given twice
POST /STORE {"key":"","value":""}
  400 Key is empty
POST /STORE/setnx {"value":""}
  400 Field `key` is missing
POST /STORE/cas {"key":"a","new_value":""}
  400 Field `old_value` is missing
DELETE /STORE
  400 Parameter `key` is missing
DELETE /STORE {}
  400 Field `key` is missing
DELETE /STORE {"key":null}
  400 Field `key` must be a string
"#;

#[test]
fn both_stores_do_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    for store in ["vs", "cache"] {
        check(&mut server.client(&key), &BOTH_STORES.replace("STORE", store));
    }
}

#[test]
fn bump_is_the_value_stores_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    check(
        &mut server.client(&key),
        r#"
POST /vs/bump {"key":"n","value":"10"}
  200 r1 {"data":"10"}
POST /vs/bump {"key":"n","value":"-3"}
  200 r2 {"data":"7"}
POST /vs/bump {"key":"n","value":"-10"}
  200 r3 {"data":"0"}
POST /vs/bump {"key":"n","value":"+9223372036854775807"}
  200 r4 {"data":"9223372036854775807"}
POST /vs/bump {"key":"n","value":"1"}
  400 r4 The sum is above the range of a 64-bit integer
POST /vs/bump {"key":"n","value":"1.5"}
  400 Field `value` must be an integer as text
POST /vs/bump {"key":"n","value":5}
  400 Field `value` must be a string
POST /vs {"key":"t","value":"text"}
  200 r5
POST /vs/bump {"key":"t","value":"1"}
  400 r5 The stored value is not an integer
POST /vs {"key":"z","value":"-007"}
  200 r6
POST /vs/bump {"key":"z","value":"9"}
  200 r7 {"data":"2"}
POST /cache/bump {"key":"n","value":"1"}
  404 There is no such route
"#,
    );
}

#[test]
fn existing_clients_find_their_paths() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    check(
        &mut server.client(&key),
        r#"
POST /set {"key":"a/1","value":"1"}
  200 r1
GET /get?key=a/1
  200 r1 {"data":"1"}
POST /setnx {"key":"a/1","value":"2"}
  409 r1 Key already exists
POST /cas {"key":"a/1","old_value":"1","new_value":"2"}
  200 r2
POST /bump {"key":"a/1","value":"1"}
  200 r3 {"data":"3"}
POST /set {"key":"b","value":""}
  200 r4
GET /iterate/prefix?prefix=a/*&offset=0&limit=10
  200 {"data":["a/1"]}
GET /iterate/prefix
  200 {"data":["a/1","b"]}
GET /iterate/prefix?prefix=*
  200 {"data":["a/1","b"]}
POST /delete {"key":"a/1"}
  200 r5
DELETE /delete {"key":"b"}
  200 r6
GET /iterate/prefix
  200 {"data":[]}
POST /cache/set {"key":"a/1","value":"1"}
  200 r1
GET /cache/get?key=a/1
  200 r1 {"data":"1"}
POST /cache/setnx {"key":"a/1","value":"2"}
  409 r1 Key already exists
POST /cache/cas {"key":"a/1","old_value":"1","new_value":"2"}
  200 r2
GET /cache/iterate/prefix
  200 ["a/1"]
GET /cache/iterate/prefix?prefix=b*
  200 []
POST /cache/delete {"key":"a/1"}
  200 r3
DELETE /cache/delete?key=a/1
  200 r3
"#,
    );
    // They send the key bare.
    let mut client = Client::connect(server.public);
    client.send(format!("GET /db/api/v1/ping HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.read_answer("GET").unwrap().json()["entity"], "tenant");
}

#[test]
fn every_text_comes_back_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    let texts = [
        "\0",
        "a\0b",
        "€",
        "😀\u{10ffff}",
        "\"\\/\u{8}\u{c}\n\r\t",
        "a b+c%20&=?#",
        "\u{feff}",
        "e\u{301}",
        "\u{7f}\u{80}",
    ];
    for store in ["vs", "cache"] {
        for text in texts {
            assert_eq!(client.post(&format!("/{store}"), json!({"key": text, "value": text})).status, 200, "{text:?}");
            let found = client.get(&format!("/{store}?key={}", encode(text)));
            assert_eq!(found.json(), json!({"data": text}));
            let keys = client.get(&format!("/{store}/iterate?prefix={}", encode(text)));
            assert_eq!(keys.json()[0], json!(text));
        }
    }
}

#[test]
fn sizes_are_bounded_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("INSIDB_MAX_VALUE_SIZE", "1000")]);
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    let (fits, over) = ("€".repeat(333) + "x", "€".repeat(333) + "xx");
    for store in ["/vs", "/cache"] {
        for (key, value, status, text) in [
            (&fits, &fits, 200, ""),
            (&over, &fits, 400, "Key is too large"),
            (&fits, &over, 400, "Value is too large"),
        ] {
            let answer = client.post(store, json!({"key": key, "value": value}));
            assert_eq!((answer.status, answer.text()), (status, text));
        }
        let long = client.get(&format!("{store}?key={}", encode(&over)));
        assert_eq!((long.status, long.text()), (400, "Key is too large"));
        // The longest legal request: cas of three texts of control characters, each escaped to six bytes.
        let old = "\u{1}".repeat(1_000);
        assert_eq!(client.post(store, json!({"key": old, "value": old})).status, 200);
        assert_eq!(
            client.post(&format!("{store}/cas"), json!({"key": old, "old_value": old, "new_value": old})).status,
            200
        );
        let body = client.post(store, json!({"key": "k", "value": "v", "padding": "x".repeat(22_096)}));
        assert_eq!((body.status, body.text()), (400, "Value is too large"));
        assert_eq!(body.header("connection"), None, "a small rest is read away");
    }
}

#[test]
fn a_long_page_is_streamed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("tenant");
    let mut client = server.client(&key);
    let names: Vec<String> = (0..300).map(|n| format!("p{n:04}{}", "x".repeat(2_000))).collect();
    for store in ["vs", "cache"] {
        for name in &names {
            assert_eq!(client.post(&format!("/{store}"), json!({"key": name, "value": ""})).status, 200);
        }
        let page = client.get(&format!("/{store}/iterate?prefix=p&limit=1000"));
        assert_eq!(page.header("transfer-encoding"), Some("chunked"));
        assert_eq!(page.json(), json!(names));
    }
}
