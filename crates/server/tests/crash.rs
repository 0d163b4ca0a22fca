//! The server is killed at random moments while 32 connections write, and must come back with everything that it
//! acknowledged, nothing doubled, exact books, and an empty cache under a new generation.
//!
//! `INSIDB_CRASH_ROUNDS` sets the number of rounds (default 20), `INSIDB_CRASH_SEED` repeats a run's choices.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod harness;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use harness::{Client, Random, Server, wait_for};
use serde_json::json;

const WRITERS: usize = 32;
const KEYS_PER_WRITER: u64 = 8;

/// What one writer knows: it alone writes its keys, so each key's value is what it last had acknowledged, or what
/// it asked for and never heard of.
#[derive(Clone, Default)]
struct Ledger {
    /// The key's possible values; `None` is absent. More than one only while an outcome is unknown.
    keys: BTreeMap<String, Vec<Option<String>>>,
    /// The counter: acknowledged, and the most that it can be.
    counter: (u64, u64),
    acknowledged: u64,
}

impl Ledger {
    fn possible(&self, key: &str) -> Vec<Option<String>> {
        self.keys.get(key).cloned().unwrap_or_else(|| vec![None])
    }
}

fn setting(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    let rounds = setting("INSIDB_CRASH_ROUNDS", 20);
    let seed = setting("INSIDB_CRASH_SEED", u64::from(std::process::id()));
    println!("{rounds} rounds, INSIDB_CRASH_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(seed);
    let mut server = Server::start(dir.path());
    let key = server.create_key("crash");
    let mut ledgers = vec![Ledger::default(); WRITERS];
    let mut generation = 0;

    for round in 0..rounds {
        generation = check(&server, &key, &mut ledgers, generation, round);
        let before: u64 = ledgers.iter().map(|ledger| ledger.acknowledged).sum();
        server = write_until_killed(server, &key, &mut ledgers, &mut random);
        let after: u64 = ledgers.iter().map(|ledger| ledger.acknowledged).sum();
        assert!(after > before, "round {round}: no write was acknowledged before the kill");
    }
    check(&server, &key, &mut ledgers, generation, rounds);
    println!("{} writes acknowledged", ledgers.iter().map(|ledger| ledger.acknowledged).sum::<u64>());
}

/// Lets all writers write, kills the server at a random moment, and starts it again.
fn write_until_killed(server: Server, key: &str, ledgers: &mut [Ledger], random: &mut Random) -> Server {
    let address = server.public;
    let dir = server.dir.clone();
    let acknowledged = AtomicU64::new(0);
    let killed = AtomicBool::new(false);
    let enough = random.below(4_000) + 1;
    std::thread::scope(|scope| {
        for (writer, ledger) in ledgers.iter_mut().enumerate() {
            let mut random = Random::new(random.next());
            let (acknowledged, killed) = (&acknowledged, &killed);
            scope.spawn(move || {
                let Ok(client) = Client::try_connect(address) else { return };
                let mut client = client.key(key);
                while write_once(&mut client, writer, ledger, &mut random, killed) {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for("enough acknowledged writes", || (acknowledged.load(Ordering::Relaxed) >= enough).then_some(()));
        // A moment that no acknowledgement marks.
        std::thread::park_timeout(Duration::from_micros(random.below(3_000)));
        killed.store(true, Ordering::SeqCst);
        server.kill();
    });
    Server::start(&dir)
}

/// One write; whether it was acknowledged. Anything but an acknowledgement is allowed only once the server is
/// being killed, and leaves the outcome open.
fn write_once(
    client: &mut Client,
    writer: usize,
    ledger: &mut Ledger,
    random: &mut Random,
    killed: &AtomicBool,
) -> bool {
    let key = format!("w{writer}/{}", random.below(KEYS_PER_WRITER));
    let value = format!("{:x}", random.next()).repeat(random.below(20) as usize);
    match random.below(8) {
        0..=2 => {
            let answer =
                client.try_request("POST", "/vs/bump", &json!({"key": format!("c{writer}"), "value": "1"}).to_string());
            ledger.counter.1 += 1;
            let acknowledged = settle(answer, killed);
            if acknowledged {
                ledger.counter.0 += 1;
                ledger.acknowledged += 1;
            }
            acknowledged
        }
        3 => settle(client.try_request("POST", "/cache", &json!({"key": key, "value": value}).to_string()), killed),
        4 => {
            let answer = client.try_request("DELETE", "/vs", &json!({ "key": key }).to_string());
            record(ledger, key, None, settle(answer, killed))
        }
        _ => {
            let answer = client.try_request("POST", "/vs", &json!({"key": key, "value": value}).to_string());
            record(ledger, key, Some(value), settle(answer, killed))
        }
    }
}

fn settle(answer: std::io::Result<harness::Answer>, killed: &AtomicBool) -> bool {
    match answer {
        Ok(answer) if answer.status == 200 => true,
        Ok(answer) => panic!("a legal write was answered {}: {}", answer.status, answer.text()),
        Err(error) => {
            assert!(killed.load(Ordering::SeqCst), "the connection broke before the kill: {error}");
            false
        }
    }
}

fn record(ledger: &mut Ledger, key: String, value: Option<String>, acknowledged: bool) -> bool {
    if acknowledged {
        ledger.keys.insert(key, vec![value]);
        ledger.acknowledged += 1;
    } else {
        let mut possible = ledger.possible(&key);
        possible.push(value);
        ledger.keys.insert(key, possible);
    }
    acknowledged
}

/// Checks everything after a restart, settles what was unknown, and returns the cache's generation.
fn check(server: &Server, key: &str, ledgers: &mut [Ledger], last_generation: u64, round: u64) -> u64 {
    let mut client = server.client(key);
    let mut bytes = 0;
    for (writer, ledger) in ledgers.iter_mut().enumerate() {
        for (key, possible) in &mut ledger.keys {
            let answer = client.get(&format!("/vs?key={}", harness::encode(key)));
            let found = match answer.status {
                200 => Some(answer.json()["data"].as_str().unwrap().to_owned()),
                404 => None,
                status => panic!("round {round}: get answered {status}: {}", answer.text()),
            };
            assert!(possible.contains(&found), "round {round}: {key} holds {found:?}, not one of {possible:?}");
            bytes += found.as_ref().map_or(0, |value| key.len() + value.len());
            *possible = vec![found];
        }
        let counter = format!("c{writer}");
        let answer = client.get(&format!("/vs?key={counter}"));
        let found: u64 = match answer.status {
            200 => answer.json()["data"].as_str().unwrap().parse().unwrap(),
            _ => 0,
        };
        let (least, most) = ledger.counter;
        assert!((least..=most).contains(&found), "round {round}: {counter} is {found}, not in {least}..={most}");
        bytes += if answer.status == 200 { counter.len() + found.to_string().len() } else { 0 };
        ledger.counter = (found, found);
    }
    let limits = client.get("/limits").json();
    assert_eq!(limits["usage"]["bytes_on_disk"], json!(bytes), "round {round}: usage is not the sum over live entries");
    assert_eq!(limits["usage"]["bytes_in_memory"], json!(0), "round {round}: the cache counts something");
    let page = client.get("/cache/iterate?prefix=w");
    assert_eq!(page.json(), json!([]), "round {round}: the cache is not empty after a restart");
    let generation = page.header("x-insidb-cache-generation").unwrap().parse().unwrap();
    assert!(generation > last_generation, "round {round}: generation {generation} after {last_generation}");
    generation
}
