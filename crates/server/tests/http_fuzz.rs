//! Bodies and queries that nobody would write, sent to the real server. Whatever comes, it answers within its contract, never
//! 500, and it takes exactly what the contract says: a body or query that is accepted says what another parser reads out of
//! it, and one that is legal is accepted.
//!
//! `INSIDB_HTTP_FUZZ_REQUESTS` sets how many requests of each kind are sent (default 1,500), `INSIDB_HTTP_FUZZ_SEED` which.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "a test's own settings")]

mod harness;

use harness::{Answer, Client, Random, Server};
use serde::Deserialize;
use serde_json::json;

/// What an answer to a data operation may be here; `docs/api.md` section 2.
const STATUSES: [u16; 6] = [200, 400, 404, 409, 414, 415];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn random() -> Random {
    let seed = setting("INSIDB_HTTP_FUZZ_SEED", 20_261_127);
    println!("INSIDB_HTTP_FUZZ_SEED={seed}");
    Random::new(seed)
}

fn requests() -> u64 {
    setting("INSIDB_HTTP_FUZZ_REQUESTS", 1_500)
}

/// What is put in: the ends and turns of JSON, UTF-8 and percent-encoding.
const TELLING: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\xff",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\x00",
    b"%",
    b"%00",
    b"%ff",
    b"%C3%A9",
    b"+",
    b"&",
    b"=",
    b"1e999",
];

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    let mut below = |bound: usize| usize::try_from(random.below(bound.max(1) as u64)).unwrap();
    let at = below(input.len() + 1);
    let end = at + below(8).min(input.len() - at);
    match below(7) {
        0 | 1 if at < input.len() => input[at] ^= 1 << below(8),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            let to = below(input.len() + 1);
            drop(input.splice(to..to, part));
        }
        4 => input.truncate(at),
        _ => drop(input.splice(at..at, TELLING[below(TELLING.len())].iter().copied())),
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[usize::try_from(random.below(seeds.len() as u64)).unwrap()].clone();
    for _ in 0..random.below(4) {
        mutate(&mut input, random);
    }
    input
}

/// One connection after another: a refusal may end one.
struct Caller {
    server: Server,
    key: String,
    client: Client,
}

impl Caller {
    fn new() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let key = server.create_key("tenant");
        let client = server.client(&key);
        (Self { server, key, client }, dir)
    }

    fn ask(&mut self, method: &str, path: &[u8], body: &[u8]) -> Answer {
        let head = format!("Authorization: {}\r\nHost: x\r\nContent-Length: {}\r\n\r\n", self.key, body.len());
        let request = [method.as_bytes(), b" /db/api/v1", path, b" HTTP/1.1\r\n", head.as_bytes(), body].concat();
        let shown = String::from_utf8_lossy(&request).into_owned();
        self.client.send(&request).unwrap_or_else(|error| panic!("{error} at {shown}"));
        let answer = self.client.read_answer(method).unwrap_or_else(|error| panic!("{error} at {shown}"));
        if answer.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")) {
            self.client = self.server.client(&self.key);
        }
        assert!(STATUSES.contains(&answer.status), "{shown} is answered {}: {}", answer.status, answer.text());
        assert!(answer.status == 200 || !answer.text().is_empty(), "{shown} is answered nothing");
        answer
    }
}

/// What a body must be: other fields may be anything that JSON allows, and these stand there once.
#[derive(Deserialize)]
struct Set {
    key: String,
    value: String,
}

#[test]
fn bodies_are_taken_as_they_say_or_refused() {
    let (mut caller, _dir) = Caller::new();
    let seeds: Vec<Vec<u8>> = [
        r#"{"key":"k","value":"v"}"#,
        r#"{"value":"","key":"a longer key"}"#,
        "{\"key\":\"k\\u00e9\\n\",\"value\":\"\\ud83d\\ude00\"}",
        r#" { "key" : "k" , "value" : "17", "other": [1, {"key": null}] } "#,
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .into();
    let mut random = random();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..requests() {
        let body = mutated(&seeds, &mut random);
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = caller.ask("POST", b"/vs", &body);
        let read = serde_json::from_slice::<Set>(&body).ok().filter(|read| !read.key.is_empty());
        if answer.status != 200 {
            assert_eq!(answer.status, 400, "{shown}");
            assert!(read.is_none(), "{shown} is legal, and refused: {}", answer.text());
            refused += 1;
            continue;
        }
        let read = read.unwrap_or_else(|| panic!("{shown} is taken, and no other parser takes it"));
        let found = caller.ask("POST", b"/vs/get", json!({ "key": read.key }).to_string().as_bytes());
        assert_eq!(found.json(), json!({ "data": read.value }), "{shown}");
        taken += 1;
    }
    println!("{taken} bodies taken, {refused} refused");
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused: nothing was tried");
    assert_usage(&mut caller);
}

#[test]
fn bodies_of_every_operation_are_answered() {
    let (mut caller, _dir) = Caller::new();
    let routes: [(&str, &str, &str); 9] = [
        ("POST", "/vs/setnx", r#"{"key":"k","value":"v"}"#),
        ("POST", "/vs/cas", r#"{"key":"k","old_value":"v","new_value":"w"}"#),
        ("POST", "/vs/bump", r#"{"key":"n","value":"-5"}"#),
        ("DELETE", "/vs", r#"{"key":"k"}"#),
        ("POST", "/vs/get", r#"{"key":"k"}"#),
        ("POST", "/vs/iterate", r#"{"prefix":"k","offset":0,"limit":10,"after":""}"#),
        ("POST", "/cache", r#"{"key":"k","value":"v"}"#),
        ("POST", "/cache/cas", r#"{"key":"k","old_value":"v","new_value":"w"}"#),
        ("POST", "/alias/delete", r#"{"alias":"insi_x"}"#),
    ];
    let mut random = random();
    for _ in 0..requests() {
        let (method, path, seed) = routes[usize::try_from(random.below(routes.len() as u64)).unwrap()];
        let body = mutated(&[seed.as_bytes().to_vec()], &mut random);
        caller.ask(method, path.as_bytes(), &body);
    }
    assert_usage(&mut caller);
}

#[test]
fn queries_are_answered_and_mean_what_they_say() {
    let (mut caller, _dir) = Caller::new();
    for key in ["k", "key é", "key %"] {
        let body = json!({"key": key, "value": format!("value of {key}")}).to_string();
        assert_eq!(caller.ask("POST", b"/vs", body.as_bytes()).status, 200);
    }
    let seeds: Vec<Vec<u8>> = [
        "/vs?key=k",
        "/vs?key=key+%C3%A9",
        "/vs?key=key%20%25",
        "/vs/iterate?prefix=k&offset=0&limit=100",
        "/vs/iterate?prefix=key&after=key+%25&limit=1",
        "/vs?key=k&consistency=stale",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .into();
    let mut random = random();
    let mut found = 0;
    for _ in 0..requests() {
        let mut path = mutated(&seeds, &mut random);
        // What no URI holds is refused by the HTTP library, whose tests are its own; the path's routes are the router's.
        path.retain(|byte| byte.is_ascii_graphic() && *byte != b'#');
        if !path.starts_with(b"/vs") {
            continue;
        }
        let answer = caller.ask("GET", &path, b"");
        if answer.status == 200 && path.starts_with(b"/vs?") {
            let data = answer.json()["data"].as_str().unwrap().to_owned();
            let asked =
                single_key(&path).unwrap_or_else(|| panic!("{:?} names no key", String::from_utf8_lossy(&path)));
            assert_eq!(data, format!("value of {asked}"), "{:?}", String::from_utf8_lossy(&path));
            found += 1;
        }
    }
    println!("{found} keys found");
    assert!(found > 100, "{found} found: nothing was tried");
}

/// The value of the one parameter `key`, decoded by hand.
fn single_key(path: &[u8]) -> Option<String> {
    let query = std::str::from_utf8(path).unwrap().split_once('?')?.1;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut keys = pairs.filter(|(name, _)| decoded(name).as_deref() == Some("key"));
    let key = decoded(keys.next()?.1)?;
    keys.next().is_none().then_some(key)
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        let digits = behind.get(..2).filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        rest = behind;
        match digits {
            Some(digits) => {
                out.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                rest = &behind[2..];
            }
            None => out.push(if *byte == b'+' { b' ' } else { *byte }),
        }
    }
    String::from_utf8(out).ok()
}

/// After all of it, usage is the sum over the live entries.
fn assert_usage(caller: &mut Caller) {
    // The path of existing clients lists all keys; there are fewer than a page holds.
    let listed = caller.ask("GET", b"/iterate/prefix?limit=1000", b"").json();
    let keys: Vec<String> = serde_json::from_value(listed["data"].clone()).unwrap();
    assert!(keys.len() < 1_000, "more keys than this test counts");
    let mut bytes = 0;
    for key in &keys {
        let found = caller.ask("POST", b"/vs/get", json!({ "key": key }).to_string().as_bytes());
        bytes += key.len() + found.json()["data"].as_str().unwrap().len();
    }
    let limits = caller.ask("GET", b"/limits", b"").json();
    assert_eq!(limits["usage"]["bytes_on_disk"], json!(bytes));
}
