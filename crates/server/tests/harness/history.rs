//! Clients on every node that write down what they asked and what they were answered, and what must hold of it.
//!
//! 1. [`Traffic`] starts two clients for each node. Each asks its own node for as long as that takes connections, and
//!    another one meanwhile. Keys are few, so that clients meet, and change now and then, so that each key's history is
//!    short.
//! 2. What surely was not done is not written down. What may have been done is written down without an answer.
//! 3. At the end every key is read through every node, the history of every key is checked (`check.rs`), a cache key's
//!    for each generation on its own, and the books of every node are compared with a recount.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Answer as HttpAnswer, Client, Random, books,
    check::{self, Answer, Content, Operation, Request},
    cluster::Cluster,
    encode, wait_for,
};

/// How many clients each node has.
const CLIENTS_PER_NODE: usize = 2;
/// How many keys of each store are in use at a time.
const KEYS: u64 = 4;
/// After so many operations the next keys are used.
const OPERATIONS_PER_KEYS: u64 = 1_600;
/// How long a client waits for an answer: longer than any pause that tests make, so that what a node says when it wakes
/// is heard.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(8);
/// The pause of a client that was refused.
const PAUSE: Duration = Duration::from_millis(20);

/// One of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Store {
    Values,
    Cache,
}

impl Store {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Values => "/vs",
            Self::Cache => "/cache",
        }
    }
}

/// An operation, on what, and in which generation of the cache it was answered.
#[derive(Clone, Copy, Debug)]
struct Record {
    store: Store,
    key: u64,
    operation: Operation,
    generation: Option<u64>,
}

fn name(key: u64) -> String {
    format!("k/{key}")
}

struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    answered: AtomicU64,
    /// Answered writes to the Value Store.
    writes: AtomicU64,
    began_at: Instant,
    nodes: Vec<SocketAddr>,
    key: String,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began_at.elapsed().as_nanos()).unwrap()
    }
}

/// Clients at work.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Record>>>,
}

impl Traffic {
    /// Starts clients for every node that runs; the others may be added later.
    pub(crate) fn start(cluster: &Cluster, key: &str) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            began_at: Instant::now(),
            nodes: cluster.nodes.iter().map(|node| node.public).collect(),
            key: key.to_owned(),
        });
        let mut traffic = Self { shared, clients: Vec::new() };
        for number in (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)) {
            traffic.use_node(number);
        }
        traffic
    }

    /// Starts the clients of one more node.
    pub(crate) fn use_node(&mut self, number: usize) {
        for _ in 0..CLIENTS_PER_NODE {
            let seed = self.clients.len() as u64 + 1;
            let worker = Worker::new(self.shared.clone(), number, seed);
            self.clients.push(thread::spawn(move || worker.run()));
        }
    }

    /// Waits until so many more operations have been answered.
    pub(crate) fn await_more(&self, operations: u64) {
        self.await_count("answers", &self.shared.answered, operations);
    }

    /// Waits until so many more writes to the Value Store have been answered.
    pub(crate) fn await_writes(&self, operations: u64) {
        self.await_count("writes", &self.shared.writes, operations);
    }

    fn await_count(&self, what: &str, count: &AtomicU64, more: u64) {
        let target = count.load(Ordering::SeqCst) + more;
        wait_for(&format!("{more} more {what}"), || {
            if let Some(dead) = self.clients.iter().position(JoinHandle::is_finished) {
                panic!("client {dead} has failed");
            }
            (count.load(Ordering::SeqCst) >= target).then_some(())
        });
    }

    /// Ends the clients, waits until all nodes that run have applied the same, and checks everything.
    pub(crate) fn end_and_check(self, cluster: &mut Cluster) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut records: Vec<Record> =
            self.clients.into_iter().flat_map(|client| client.join().expect("a client has failed")).collect();
        cluster.await_whole();
        read_all(&self.shared, cluster, &mut records);
        check_records(&records);
        books::check_books(cluster, &self.shared.key);
        books::check_hashes(cluster);
    }
}

/// One client.
struct Worker {
    shared: Arc<Shared>,
    home: usize,
    connections: Vec<Option<Client>>,
    random: Random,
    /// What it last saw of each key that is in use: what a swap expects.
    last_seen: HashMap<(Store, u64), Content>,
    records: Vec<Record>,
}

impl Worker {
    fn new(shared: Arc<Shared>, home: usize, seed: u64) -> Self {
        let connections = shared.nodes.iter().map(|_| None).collect();
        let random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self { shared, home, connections, random, last_seen: HashMap::new(), records: Vec::new() }
    }

    fn run(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let Some(node) = self.connect() else {
                thread::park_timeout(PAUSE);
                continue;
            };
            let number = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if number.is_multiple_of(512) {
                self.last_seen.clear();
            }
            let key = number / OPERATIONS_PER_KEYS * KEYS + self.random.below(KEYS);
            let store = if self.random.below(2) == 0 { Store::Values } else { Store::Cache };
            let request = self.choose(store, key, number);
            if !self.perform(node, store, key, request) {
                thread::park_timeout(PAUSE);
            }
        }
        self.records
    }

    /// The node to ask now, with a connection to it: the client's own where it takes one.
    fn connect(&mut self) -> Option<usize> {
        let count = self.connections.len();
        (0..count).map(|n| (self.home + n) % count).find(|node| {
            if self.connections[*node].is_none() {
                let client = Client::try_connect(self.shared.nodes[*node]).ok();
                let client = client.map(|client| client.key(&self.shared.key).problems());
                self.connections[*node] = client.and_then(|client| client.patience(ANSWER_WAIT_MAX).ok());
            }
            self.connections[*node].is_some()
        })
    }

    /// Values are told apart by the number of the operation that wrote them, however often they are bumped.
    fn choose(&mut self, store: Store, key: u64, number: u64) -> Request {
        let new = i64::try_from(number).unwrap() * 1_000_000;
        match (self.random.below(20), store) {
            (0..=7, _) => Request::Get,
            (8..=10, _) => Request::Set(new),
            (11..=12, _) => Request::Delete,
            (13..=16, Store::Values) => Request::Bump(1 + i64::try_from(self.random.below(3)).unwrap()),
            _ => Request::Swap { old: self.last_seen.get(&(store, key)).copied().flatten(), new },
        }
    }

    /// Whether the node did as it was asked.
    fn perform(&mut self, node: usize, store: Store, key: u64, request: Request) -> bool {
        let client = self.connections[node].as_mut().unwrap();
        let (method, path, body) = http(store, &name(key), request);
        let called = self.shared.now();
        let answered = client.try_request(method, &path, &body);
        let returned = self.shared.now();
        let mut record =
            Record { store, key, operation: Operation { called, request, returned: None }, generation: None };
        match answered {
            Err(_) => {
                self.connections[node] = None;
                self.records.push(record);
                false
            }
            Ok(answer) => match read(&answer, request) {
                Heard::Answer(said) => {
                    record.operation.returned = Some((returned, said));
                    record.generation = (store == Store::Cache).then(|| generation(&answer));
                    self.records.push(record);
                    self.note(store, key, request, said);
                    true
                }
                Heard::Unknown => {
                    self.records.push(record);
                    false
                }
                Heard::NotDone => false,
            },
        }
    }

    fn note(&mut self, store: Store, key: u64, request: Request, said: Answer) {
        self.shared.answered.fetch_add(1, Ordering::SeqCst);
        if store == Store::Values && request != Request::Get {
            self.shared.writes.fetch_add(1, Ordering::SeqCst);
        }
        let content = match (said, request) {
            (Answer::Content(content), _) => content,
            (Answer::Sum(sum), _) => Some(sum),
            (Answer::Done, Request::Set(value)) => Some(value),
            (Answer::Swapped(true), Request::Swap { new, .. }) => Some(new),
            (Answer::Swapped(_) | Answer::Done, _) => None,
        };
        self.last_seen.insert((store, key), content);
    }
}

fn http(store: Store, name: &str, request: Request) -> (&'static str, String, String) {
    let path = store.path();
    let text = |value: i64| value.to_string();
    match request {
        Request::Get => ("GET", format!("{path}?key={}", encode(name)), String::new()),
        Request::Set(value) => ("POST", path.to_owned(), json!({"key": name, "value": text(value)}).to_string()),
        Request::Delete => ("DELETE", path.to_owned(), json!({ "key": name }).to_string()),
        Request::Swap { old: None, new } => {
            ("POST", format!("{path}/setnx"), json!({"key": name, "value": text(new)}).to_string())
        }
        Request::Swap { old: Some(old), new } => {
            let body = json!({"key": name, "old_value": text(old), "new_value": text(new)});
            ("POST", format!("{path}/cas"), body.to_string())
        }
        Request::Bump(by) => ("POST", format!("{path}/bump"), json!({"key": name, "value": text(by)}).to_string()),
    }
}

/// What a client knows after an answer.
enum Heard {
    Answer(Answer),
    Unknown,
    NotDone,
}

fn read(answer: &HttpAnswer, request: Request) -> Heard {
    let number = || answer.json()["data"].as_str().unwrap().parse().unwrap();
    let said = match (answer.status, request) {
        (200, Request::Get) => Answer::Content(Some(number())),
        (404, Request::Get) => Answer::Content(None),
        (200, Request::Set(_) | Request::Delete) => Answer::Done,
        (200, Request::Swap { .. }) => Answer::Swapped(true),
        (409, Request::Swap { .. }) => Answer::Swapped(false),
        (200, Request::Bump(_)) => Answer::Sum(number()),
        (503, _) => {
            return match answer.json()["code"].as_str().unwrap() {
                "outcome_unknown" => Heard::Unknown,
                "no_leader" | "no_quorum" | "overloaded" | "disk_full" | "memory_full" => Heard::NotDone,
                code => panic!("an unexpected code: {code}"),
            };
        }
        (status, _) => panic!("{request:?} was answered {status}: {}", answer.text()),
    };
    Heard::Answer(said)
}

pub(crate) fn generation(answer: &HttpAnswer) -> u64 {
    answer.header("x-insidb-cache-generation").expect("every cache answer has one").parse().unwrap()
}

/// Reads every key that was used through every node that runs, as part of the history.
fn read_all(shared: &Shared, cluster: &Cluster, records: &mut Vec<Record>) {
    let mut keys: Vec<(Store, u64)> = records.iter().map(|record| (record.store, record.key)).collect();
    keys.sort_unstable();
    keys.dedup();
    for number in (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)) {
        let mut client = cluster.client(number, &shared.key);
        for (store, key) in &keys {
            let (method, path, body) = http(*store, &name(*key), Request::Get);
            let called = shared.now();
            let answer = client.request(method, &path, &body);
            let returned = shared.now();
            let Heard::Answer(said) = read(&answer, Request::Get) else {
                panic!("node {number} does not answer for {store:?} {key}: {}", answer.text());
            };
            let operation = Operation { called, request: Request::Get, returned: Some((returned, said)) };
            let generation = (*store == Store::Cache).then(|| generation(&answer));
            records.push(Record { store: *store, key: *key, operation, generation });
        }
    }
}

/// No node is in an older generation after another has answered in a newer one, and each key of each generation has a
/// linearizable history. An operation without an answer may belong to any generation.
fn check_records(records: &[Record]) {
    let mut answered: Vec<(u64, u64, u64)> = records
        .iter()
        .filter_map(|record| Some((record.operation.called, record.operation.returned?.0, record.generation?)))
        .collect();
    answered.sort_unstable();
    let mut returned: Vec<(u64, u64)> =
        answered.iter().map(|(_, returned, generation)| (*returned, *generation)).collect();
    returned.sort_unstable();
    let (mut before, mut newest) = (returned.into_iter().peekable(), 0);
    for (called, _, generation) in answered {
        while let Some((_, earlier)) = before.next_if(|(returned, _)| *returned < called) {
            newest = newest.max(earlier);
        }
        assert!(generation >= newest, "generation {generation} answers a call made after generation {newest} answered");
    }
    let mut histories: BTreeMap<(Store, u64, Option<u64>), Vec<Operation>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.operation.returned.is_some()) {
        histories.entry((record.store, record.key, record.generation)).or_default().push(record.operation);
    }
    for record in records.iter().filter(|record| record.operation.returned.is_none()) {
        let of_key = (record.store, record.key, None)..=(record.store, record.key, Some(u64::MAX));
        for (_, history) in histories.range_mut(of_key) {
            history.push(record.operation);
        }
    }
    for ((store, key, generation), history) in histories {
        if let Err(fault) = check::check(&history) {
            panic!("{store:?} {} generation {generation:?}, {} operations: {fault}", name(key), history.len());
        }
    }
}
