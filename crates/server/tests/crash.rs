//! The server is killed at random moments while many connections write, and must come back with everything that it
//! acknowledged, nothing doubled, exact books, and an empty cache under a new generation.
//!
//! Once on the file system of this machine, which keeps what a killed process has written; and once on one that loses
//! what was not synced (`lossy`), all of it or a part, as a machine does whose power goes.
//!
//! `INSIDB_CRASH_ROUNDS` and `INSIDB_LOSS_ROUNDS` set the numbers of rounds (default 20 and 5), `INSIDB_CRASH_SEED` repeats
//! a run's choices.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod harness;
mod lossy;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use harness::{Client, Random, Server, wait_for};
use lossy::Lossy;
use serde_json::json;

const WRITERS: usize = 32;
/// On the lossy file system each write goes through this process: fewer keep it as busy.
const WRITERS_ON_LOSSY: usize = 16;
const KEYS_PER_WRITER: u64 = 8;

/// What one writer knows: it alone writes its keys, so each key's value is what it last had acknowledged, or what
/// it asked for and never heard of.
#[derive(Clone, Default)]
struct Ledger {
    /// The key's possible values; `None` is absent. More than one only while an outcome is unknown.
    keys: BTreeMap<String, Vec<Option<String>>>,
    /// The counter: acknowledged, and the most that it can be.
    counter: (u64, u64),
    /// How many writes to the Value Store were acknowledged; the Cache promises nothing beyond a restart.
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

fn seed() -> u64 {
    setting("INSIDB_CRASH_SEED", u64::from(std::process::id()))
}

#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    let rounds = setting("INSIDB_CRASH_ROUNDS", 20);
    let seed = seed();
    println!("{rounds} rounds, INSIDB_CRASH_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::begin(dir.path(), WRITERS, seed);
    for _ in 0..rounds {
        scene.round(|_| {});
    }
    scene.end();
}

#[test]
fn nothing_acknowledged_is_lost_with_what_was_not_synced() {
    let rounds = setting("INSIDB_LOSS_ROUNDS", 5);
    let seed = seed();
    println!("{rounds} rounds, INSIDB_CRASH_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let Some(lossy) = mount(dir.path()) else { return };
    let mut scene = Scene::begin(&dir.path().join("data"), WRITERS_ON_LOSSY, seed);
    for round in 0..rounds {
        // All of it every third time, else a part.
        scene.round(|random| lossy.crash((round % 3 != 0).then(|| random.next())));
    }
    scene.end();
    println!("{} syncs", lossy.syncs());
}

/// The test above would find a missing sync: without any it does.
#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let Some(lossy) = mount(dir.path()) else { return };
    let mut scene = Scene::begin(&dir.path().join("data"), WRITERS_ON_LOSSY, seed());
    lossy.ignore_syncs();
    let rounds = catch_unwind(AssertUnwindSafe(|| {
        scene.round(|_| lossy.crash(None));
        scene.end();
    }));
    let found = *rounds.expect_err("nothing was missed").downcast::<String>().unwrap();
    assert!(found.contains("not one of") || found.contains("not in"), "{found}");
}

fn mount(at: &Path) -> Option<Lossy> {
    let lossy = Lossy::mount(at);
    if lossy.is_none() {
        println!("SKIPPED: mounting through FUSE is not permitted here; the loss of what was not synced was not tried");
    }
    lossy
}

/// A server, and what its writers know.
struct Scene {
    server: Option<Server>,
    key: String,
    ledgers: Vec<Ledger>,
    generation: u64,
    rounds: u64,
    random: Random,
}

impl Scene {
    fn begin(dir: &Path, writers: usize, seed: u64) -> Self {
        let server = Server::start(dir);
        let key = server.create_key("crash");
        let ledgers = vec![Ledger::default(); writers];
        Self { server: Some(server), key, ledgers, generation: 0, rounds: 0, random: Random::new(seed) }
    }

    fn acknowledged(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.acknowledged).sum()
    }

    fn check(&mut self) {
        let server = self.server.as_ref().unwrap();
        self.generation = check(server, &self.key, &mut self.ledgers, self.generation, self.rounds);
    }

    /// Checks everything, writes, kills, lets `lose` do what it does to the disk, and starts again.
    fn round(&mut self, lose: impl FnOnce(&mut Random)) {
        self.check();
        let before = self.acknowledged();
        let server = self.server.take().unwrap();
        let dir = server.dir.clone();
        write_until_killed(server, &self.key, &mut self.ledgers, &mut self.random);
        lose(&mut self.random);
        assert!(self.acknowledged() > before, "round {}: no write was acknowledged before the kill", self.rounds);
        self.server = Some(Server::start(&dir));
        self.rounds += 1;
    }

    fn end(mut self) {
        self.check();
        println!("{} writes acknowledged", self.acknowledged());
    }
}

/// Lets all writers write, and kills the server at a random moment.
fn write_until_killed(server: Server, key: &str, ledgers: &mut [Ledger], random: &mut Random) {
    let address = server.public;
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
                let mut before = ledger.acknowledged;
                while write_once(&mut client, writer, ledger, &mut random, killed) {
                    acknowledged.fetch_add(ledger.acknowledged - before, Ordering::Relaxed);
                    before = ledger.acknowledged;
                }
            });
        }
        wait_for("enough acknowledged writes to the Value Store", || {
            (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        });
        // A moment that no acknowledgement marks.
        std::thread::park_timeout(Duration::from_micros(random.below(3_000)));
        killed.store(true, Ordering::SeqCst);
        server.kill();
    });
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
