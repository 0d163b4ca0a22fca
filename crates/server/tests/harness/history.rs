//! Clients on every node that write down what they asked and what they were answered, and what must hold of it.
//!
//! 1. [`Traffic`] starts two clients for each node. Each asks its own node for as long as that takes connections, and
//!    another one meanwhile. Keys are few, so that clients meet, and change now and then, so that each key's history is
//!    short.
//! 2. What surely was not done is not written down. What may have been done is written down without an answer.
//! 3. At the end every key is read through every node, `insidb-oracle` checks the history, and the books of every node are
//!    compared with a recount.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use insidb_oracle::{Answer, Content, History, Operation, Outcome, Request, Store};
use serde_json::json;

use super::{Answer as HttpAnswer, Client, Random, books, cluster::Cluster, encode, wait_for};

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

/// Where a store's routes begin.
pub(crate) fn path(store: Store) -> &'static str {
    match store {
        Store::Values => "/vs",
        Store::Cache => "/cache",
    }
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
    clients: Vec<JoinHandle<Vec<Operation>>>,
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
        let mut history = History::default();
        for client in self.clients {
            client.join().expect("a client has failed").into_iter().for_each(|operation| history.push(operation));
        }
        cluster.await_whole();
        read_all(&self.shared, cluster, &mut history);
        if let Err(fault) = history.check() {
            panic!("of {} operations: {fault}", history.operations().len());
        }
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
    operations: Vec<Operation>,
}

impl Worker {
    fn new(shared: Arc<Shared>, home: usize, seed: u64) -> Self {
        let connections = shared.nodes.iter().map(|_| None).collect();
        let random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self { shared, home, connections, random, last_seen: HashMap::new(), operations: Vec::new() }
    }

    fn run(mut self) -> Vec<Operation> {
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
        self.operations
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
            _ => match self.last_seen.get(&(store, key)).copied().flatten() {
                Some(old) => Request::Cas { old, new },
                None => Request::SetNx(new),
            },
        }
    }

    /// Whether the node did as it was asked.
    fn perform(&mut self, node: usize, store: Store, key: u64, request: Request) -> bool {
        let client = self.connections[node].as_mut().unwrap();
        let (method, path, body) = http(store, &name(key), request);
        let called = self.shared.now();
        let answered = client.try_request(method, &path, &body);
        let returned = self.shared.now();
        let (outcome, is_served) = match answered {
            Err(_) => {
                self.connections[node] = None;
                (Outcome::Unknown, false)
            }
            Ok(answer) => match read(&answer, request) {
                Heard::Answer(said) => {
                    self.note(store, key, request, said);
                    (known(store, returned, said, &answer), true)
                }
                Heard::Unknown => (Outcome::Unknown, false),
                Heard::NotDone => (Outcome::Refused, false),
            },
        };
        self.operations.push(Operation { store, key: name(key), request, called_ns: called, outcome });
        is_served
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
            (Answer::Met(true), Request::SetNx(new) | Request::Cas { new, .. }) => Some(new),
            (Answer::Met(_) | Answer::Done, _) => None,
        };
        self.last_seen.insert((store, key), content);
    }
}

fn http(store: Store, name: &str, request: Request) -> (&'static str, String, String) {
    let path = path(store);
    let text = |value: i64| value.to_string();
    match request {
        Request::Get => ("GET", format!("{path}?key={}", encode(name)), String::new()),
        Request::Set(value) => ("POST", path.to_owned(), json!({"key": name, "value": text(value)}).to_string()),
        Request::Delete => ("DELETE", path.to_owned(), json!({ "key": name }).to_string()),
        Request::SetNx(new) => ("POST", format!("{path}/setnx"), json!({"key": name, "value": text(new)}).to_string()),
        Request::Cas { old, new } => {
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
        (200, Request::SetNx(_) | Request::Cas { .. }) => Answer::Met(true),
        (409, Request::SetNx(_) | Request::Cas { .. }) => Answer::Met(false),
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

fn known(store: Store, returned_ns: u64, answer: Answer, from: &HttpAnswer) -> Outcome {
    Outcome::Known { returned_ns, answer, generation: (store == Store::Cache).then(|| generation(from)) }
}

/// Reads every key that was used through every node that runs, as part of the history.
fn read_all(shared: &Shared, cluster: &Cluster, history: &mut History) {
    let keys: BTreeSet<(Store, String)> = history.operations().iter().map(|it| (it.store, it.key.clone())).collect();
    for number in (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)) {
        let mut client = cluster.client(number, &shared.key);
        for (store, key) in &keys {
            let (method, path, body) = http(*store, key, Request::Get);
            let called_ns = shared.now();
            let answer = client.request(method, &path, &body);
            let returned = shared.now();
            let Heard::Answer(said) = read(&answer, Request::Get) else {
                panic!("node {number} does not answer for {store:?} {key}: {}", answer.text());
            };
            let outcome = known(*store, returned, said, &answer);
            history.push(Operation { store: *store, key: key.clone(), request: Request::Get, called_ns, outcome });
        }
    }
}
