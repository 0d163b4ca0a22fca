//! The files of a node that does not run are damaged, each kind of file in every way: a bit flipped, a sector zeroed, cut,
//! removed, put back as it once was. The node then starts and shows all that it ever acknowledged, or it refuses, and says
//! which file it is and what to do. Nothing else. A node of a cluster is rebuilt from the others by one command.
//!
//! `INSIDB_CORRUPTION_CASES` sets how many random cases there are (default 24 for each way to end), `INSIDB_CORRUPTION_SEED`
//! their choice. What can be tried exhaustively is tried below: `storage/tests/corruption.rs`,
//! `consensus/tests/log_corruption.rs`, and the identity's own tests in `server/node/data_dir.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests have real time, and settings of their own")]

mod harness;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use harness::{Client, Random, Server, cluster::Cluster, encode, spawn, wait_for};
use serde_json::json;

const SECTOR_BYTES: u64 = 512;

/// Small segments and checkpoints: everything is purged and used again.
const SETTINGS: [(&str, &str); 3] =
    [("INSIDB_MAX_VALUE_SIZE", "2048"), ("INSIDB_LOG_SEGMENT_BYTES", "1048576"), ("INSIDB_CHECKPOINT_BYTES", "65536")];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Term,
    Kill,
}

/// A node that does not run, with all that a client must find in it.
struct Made {
    dir: tempfile::TempDir,
    /// The same directory as it was some restarts before.
    older: Vec<tempfile::TempDir>,
    key: String,
    expected: BTreeMap<String, String>,
    bytes: usize,
}

fn start(dir: &Path) -> Server {
    Server::start_with(dir, &[], &SETTINGS)
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(copied.success());
    to
}

/// Waits until nothing has been written to the log for longer than it takes to fall idle.
fn await_idle(dir: &Path) {
    let newest = || {
        let files = fs::read_dir(dir.join("log")).unwrap();
        files.filter_map(|file| file.unwrap().metadata().ok()?.modified().ok()).max().unwrap()
    };
    wait_for("the log to fall idle", || (newest().elapsed().unwrap() > Duration::from_millis(500)).then_some(()));
}

impl Made {
    fn new(end: End) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = start(dir.path());
        let key = server.create_key("tenant");
        let mut expected = BTreeMap::new();
        let mut older = Vec::new();
        for round in 0..3_u32 {
            let mut client = server.client(&key);
            for number in 0..1_500_u32 {
                let name = format!("key {:02}", number % 80);
                let value = format!("{round}/{number}/").repeat(1 + (number as usize * 7) % 90);
                assert_eq!(client.post("/vs", json!({"key": name, "value": value})).status, 200);
                expected.insert(name, value);
            }
            for number in (round..80).step_by(9) {
                let name = format!("key {number:02}");
                let path = format!("/vs?key={}", encode(&name));
                assert_eq!(client.request("DELETE", &path, "").status, 200);
                expected.remove(&name);
            }
            let counted = client.post("/vs/bump", json!({"key": "counter", "value": "5"})).json();
            expected.insert("counter".to_owned(), counted["data"].as_str().unwrap().to_owned());
            await_idle(dir.path());
            if end == End::Kill || round == 1 {
                server.kill();
            } else {
                server.signal("TERM");
                assert_eq!(server.wait(), Some(0));
            }
            if round == 2 {
                break;
            }
            older.push(copy(dir.path()));
            server = start(dir.path());
        }
        // What a crash may leave, and nobody reads.
        let store = dir.path().join("store");
        fs::write(store.join("snapshot-7.part"), b"half a snapshot").unwrap();
        fs::write(store.join("floor-unfinished.redb"), b"half a store").unwrap();
        let bytes = expected.iter().map(|(key, value)| key.len() + value.len()).sum();
        Self { dir, older, key, expected, bytes }
    }

    /// The node's own files; what is configuration, or written anew at each start, left out.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![PathBuf::from("node.json")];
        for part in ["log", "store"] {
            let mut names: Vec<_> = fs::read_dir(self.dir.path().join(part)).unwrap().collect();
            names.sort_by_key(|file| file.as_ref().unwrap().file_name());
            files.extend(names.into_iter().map(|file| Path::new(part).join(file.unwrap().file_name())));
        }
        files
    }

    /// Starts a copy with this damage, and checks what comes of it; whether it was refused.
    fn check(&self, damage: &Damage) -> bool {
        let copy = copy(self.dir.path());
        damage.deal(copy.path(), &self.older);
        let Some(server) = start_or_refuse(copy.path(), damage) else { return true };
        self.read_back(&server, damage);
        // Again, after a write: no damage shows up late.
        let written = server.client(&self.key).post("/vs", json!({"key": "key 00", "value": "more"}));
        assert_eq!(written.status, 200, "{damage:?}: {}", written.text());
        server.kill();
        let server = start(copy.path());
        assert_eq!(server.client(&self.key).get("/vs?key=key%2000").json(), json!({"data": "more"}), "{damage:?}");
        false
    }

    fn read_back(&self, server: &Server, damage: &Damage) {
        let mut client = server.client(&self.key);
        for (key, value) in &self.expected {
            let answer = client.get(&format!("/vs?key={}", encode(key)));
            assert_eq!(answer.status, 200, "{damage:?}: {key} is answered {}", answer.text());
            assert!(answer.json() == json!({ "data": value }), "{damage:?}: {key} holds a wrong value");
        }
        for prefix in ["key", "counter"] {
            let listed = client.get(&format!("/vs/iterate?prefix={prefix}&limit=1000")).json();
            let keys: Vec<&String> = self.expected.keys().filter(|key| key.starts_with(prefix)).collect();
            assert_eq!(listed, json!(keys), "{damage:?}");
        }
        let usage = client.get("/limits").json()["usage"]["bytes_on_disk"].clone();
        assert_eq!(usage, json!(self.bytes), "{damage:?}: usage is not the sum over live entries");
    }
}

#[derive(Clone, Debug)]
struct Damage {
    /// Within the data directory.
    file: PathBuf,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Flip {
        at: u64,
        bit: u8,
    },
    Zero {
        at: u64,
    },
    Cut {
        to: u64,
    },
    Remove,
    /// As it was in this one of the older copies.
    PutBack(usize),
}

impl Damage {
    fn random(file: &Path, content: &[u8], random: &mut Random) -> Self {
        // Where something lies: most of a segment or a store are zeros.
        let sectors: Vec<u64> = (0..content.len() as u64)
            .step_by(SECTOR_BYTES as usize)
            .filter(|at| content[*at as usize..].iter().take(SECTOR_BYTES as usize).any(|byte| *byte != 0))
            .collect();
        let sector = sectors[random.below(sectors.len() as u64) as usize];
        let how = match random.below(8) {
            0..=3 => {
                let at = sector + random.below(SECTOR_BYTES.min(content.len() as u64 - sector));
                How::Flip { at, bit: random.below(8) as u8 }
            }
            4..=5 => How::Zero { at: sector },
            _ => How::Cut { to: random.below(content.len() as u64) },
        };
        Self { file: file.to_owned(), how }
    }

    fn deal(&self, dir: &Path, older: &[tempfile::TempDir]) {
        let path = dir.join(&self.file);
        let file = || fs::File::options().read(true).write(true).open(&path).unwrap();
        match self.how {
            How::Flip { at, bit } => {
                let mut byte = [0];
                file().read_exact_at(&mut byte, at).unwrap();
                file().write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            }
            How::Zero { at } => {
                let bytes = SECTOR_BYTES.min(file().metadata().unwrap().len() - at);
                file().write_all_at(&vec![0; bytes as usize], at).unwrap();
            }
            How::Cut { to } => file().set_len(to).unwrap(),
            How::Remove => fs::remove_file(&path).unwrap(),
            How::PutBack(which) => drop(fs::copy(older[which].path().join(&self.file), &path).unwrap()),
        }
    }
}

/// A server that serves; none when it refused to start, with a line that names the damage and the way out.
fn start_or_refuse(dir: &Path, damage: &Damage) -> Option<Server> {
    drop(fs::remove_file(dir.join("addresses.json")));
    let mut child = spawn(dir, &[], &SETTINGS);
    let ended = wait_for("the start, or its refusal", || {
        let serves = dir.join("addresses.json").exists();
        child.try_wait().unwrap().map(Some).or(serves.then_some(None))
    });
    let Some(status) = ended else {
        end(child);
        return Some(start(dir));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{damage:?}: {said}");
    let line = said.lines().last().unwrap_or_default();
    let names_it = line.contains(dir.to_str().unwrap()) || line.contains("log and store from the same backup");
    let tells = ["remove this data directory", "rebuild", "restore", "Restore"].iter().any(|word| line.contains(word));
    assert!(names_it && tells, "{damage:?} is not named: {said}");
    assert!(!line.contains("panicked"), "{damage:?}: {said}");
    None
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn damage_a_node(end: End) {
    let cases = setting("INSIDB_CORRUPTION_CASES", 24);
    let seed = setting("INSIDB_CORRUPTION_SEED", 20_261_127);
    let made = Made::new(end);
    let files = made.files();
    assert!(files.iter().filter(|file| file.extension().is_some_and(|it| it == "log")).count() >= 2, "{files:?}");

    let mut damages = Vec::new();
    for file in &files {
        damages.push(Damage { file: file.clone(), how: How::Remove });
        damages.push(Damage { file: file.clone(), how: How::Cut { to: 0 } });
        for (which, older) in made.older.iter().enumerate() {
            if older.path().join(file).exists() {
                damages.push(Damage { file: file.clone(), how: How::PutBack(which) });
            }
        }
    }
    // Files that are gone come back: the permission to found, and segments.
    for (which, older) in made.older.iter().enumerate() {
        let mut segments: Vec<_> = fs::read_dir(older.path().join("log")).unwrap().collect();
        segments.sort_by_key(|file| file.as_ref().unwrap().file_name());
        let segments = segments.into_iter().map(|file| Path::new("log").join(file.unwrap().file_name()));
        let gone = segments.filter(|file| !made.dir.path().join(file).exists());
        damages.extend(gone.map(|file| Damage { file, how: How::PutBack(which) }));
    }
    let mut random = Random::new(seed);
    for case in 0..cases {
        // The store, the log, and all the rest in turn.
        let part = ["store", "log", ""][case as usize % 3];
        let of_part: Vec<&PathBuf> = files.iter().filter(|file| file.starts_with(part)).collect();
        let file = of_part[random.below(of_part.len() as u64) as usize];
        let content = fs::read(made.dir.path().join(file)).unwrap();
        if content.iter().any(|byte| *byte != 0) {
            damages.push(Damage::random(file, &content, &mut random));
        }
    }
    let refused = damages.iter().filter(|damage| made.check(damage)).count();
    println!(
        "{} cases after {end:?}, INSIDB_CORRUPTION_SEED={seed}: {refused} refused, the others harmless",
        damages.len()
    );
    assert!(refused * 4 > damages.len(), "only {refused} of {} were noticed", damages.len());
}

#[test]
fn a_node_that_was_stopped_serves_nothing_wrong_from_damaged_files() {
    damage_a_node(End::Term);
}

#[test]
fn a_node_that_was_killed_serves_nothing_wrong_from_damaged_files() {
    damage_a_node(End::Kill);
}

/// Flips a bit in the middle of what is in use of the node's file, the largest one under `part`.
fn damage_middle(dir: &Path, part: &str) {
    let files = fs::read_dir(dir.join(part)).unwrap().map(|file| file.unwrap().path());
    let path = files.max_by_key(|path| used(path)).unwrap();
    let at = used(&path) / 2;
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut sector = vec![0; SECTOR_BYTES as usize];
    file.read_exact_at(&mut sector, at).unwrap();
    for byte in &mut sector {
        *byte ^= 0x10;
    }
    file.write_all_at(&sector, at).unwrap();
}

/// Up to where a file holds anything.
fn used(path: &Path) -> u64 {
    fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// What is damaged, and how.
type Named = (&'static str, fn(&Path));

#[test]
fn a_node_with_any_damage_is_rebuilt_from_its_peers_by_one_command() {
    let mut cluster = Cluster::start_with(
        3,
        "checkpoint_bytes = 65536\nlog_tail_bytes = 0\nlog_segment_bytes = 1048576\nmax_value_size = 2048",
    );
    let (key, _) = cluster.create_key(0, "tenant");
    let damages: [Named; 6] = [
        ("a log segment", |dir| damage_middle(dir, "log")),
        ("the store's head", |dir| {
            let file = fs::File::options().write(true).open(dir.join("store/floor.redb")).unwrap();
            file.write_all_at(&[0; SECTOR_BYTES as usize], 0).unwrap();
        }),
        ("the store, cut", |dir| {
            fs::File::options().write(true).open(dir.join("store/floor.redb")).unwrap().set_len(5_000).unwrap();
        }),
        ("the identity", |dir| fs::write(dir.join("node.json"), b"{\"format\": 2}").unwrap()),
        ("the log's directory", |dir| fs::remove_dir_all(dir.join("log")).unwrap()),
        ("the store's directory", |dir| fs::remove_dir_all(dir.join("store")).unwrap()),
    ];
    for (round, (what, damage)) in damages.into_iter().enumerate() {
        let victim = round % 3;
        let mut client = Client::connect(cluster.nodes[victim].public).key(&key);
        for number in 0..200 {
            let body = json!({"key": format!("{round}/{number}"), "value": format!("value {number} ").repeat(40)});
            assert_eq!(client.post("/vs", body).status, 200);
        }
        assert_eq!(cluster.stop(victim), Some(0));
        damage(&cluster.nodes[victim].dir);
        cluster.configure(victim);
        cluster.spawn(victim);
        assert_eq!(cluster.await_end(victim), Some(1), "{what}: not refused");
        let log = cluster.log_text(victim);
        let line = log.lines().last().unwrap();
        assert!(["data directory", "rebuild"].iter().any(|word| line.contains(word)), "{what}: {line}");

        // As docs/clusters.md has it: `rm -r DATA_DIR && insid run --config FILE`.
        assert!(Command::new("rm").arg("-r").arg(&cluster.nodes[victim].dir).status().unwrap().success());
        cluster.restart(victim);
        cluster.await_whole();
        let mut client = Client::connect(cluster.nodes[victim].public).key(&key);
        for earlier in 0..=round {
            for number in 0..200 {
                let answer = client.get(&format!("/vs?key={earlier}/{number}"));
                assert_eq!(answer.json(), json!({"data": format!("value {number} ").repeat(40)}), "after {what}");
            }
        }
    }
}
