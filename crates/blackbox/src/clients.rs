//! Clients: each asks its node one thing after another, over the SDK, which sends every request once. When its node takes no
//! connection it asks the next one, for a moment.
//!
//! Every key of a tenant begins with [`PREFIX`], so that it can be listed:
//! - `k/N`: registers, which a few clients at a time read, write, swap, bump and delete; now and then the next ones are used;
//! - `k/sum`: a number in the Value Store that is only ever bumped and read;
//! - `k/once/N`: written once, with setnx, and never again: what was acknowledged must be there.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use insidb_client::{Client, Code, Error, Keyspace, Store as Sdk};
use insidb_oracle::{Answer, Content, Operation, Outcome, Request, Store};
use tokio::time::sleep;

use crate::{
    cluster::{Addresses, NODES},
    random::Random,
    record::{Line, Recorder},
    value, watch,
};

/// What every key begins with.
pub(crate) const PREFIX: &str = "k";
/// What the names of tenants begin with that are deleted after a while.
pub(crate) const PASSING: &str = "passing";
/// How many clients each node has.
pub(crate) const CLIENTS_PER_NODE: usize = 2;
/// How many registers of each store are in use at a time.
const REGISTERS: u64 = 4;
/// After so many operations the next registers are used.
const OPERATIONS_PER_REGISTERS: u64 = 6_000;
/// How long a client waits for an answer: longer than any fault is held, so that what a node says when it wakes is heard.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(12);
/// How long a client stays away from its node when that took no connection.
const AWAY: Duration = Duration::from_secs(1);
/// The pause after a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// What a tenant is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Ample limits, for as long as the run lasts.
    Main,
    /// Its quotas move around what it uses.
    Tight,
    /// It is deleted after a while.
    Passing,
}

#[derive(Clone)]
pub(crate) struct Tenant {
    /// Its name in the history.
    pub(crate) name: String,
    /// Its API key.
    pub(crate) key: String,
    pub(crate) uuid: String,
    pub(crate) purpose: Purpose,
}

/// A key of a tenant in a store.
pub(crate) type Place = (Store, String, String);

/// What all clients share.
pub(crate) struct World {
    pub(crate) nodes: Vec<Addresses>,
    pub(crate) recorder: Recorder,
    pub(crate) seed: u64,
    pub(crate) stop: AtomicBool,
    /// Whether clients shall write much, since a disk is full.
    pub(crate) is_flooding: AtomicBool,
    /// Those that clients use; a passing one for a moment longer than it is there.
    pub(crate) tenants: RwLock<Vec<Tenant>>,
    /// Those whose deletion was acknowledged.
    pub(crate) deleted: Mutex<Vec<Tenant>>,
    /// Every key that was ever asked for.
    pub(crate) places: Mutex<BTreeSet<Place>>,
    /// How many operations were begun.
    pub(crate) begun: AtomicU64,
    /// The mean time between two operations of one client.
    pub(crate) interval: Duration,
}

impl World {
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The key of a tenant, as the history names it.
pub(crate) fn history_key(tenant: &str, key: &str) -> String {
    format!("{tenant}/{key}")
}

/// What a client heard.
pub(crate) enum Heard {
    Answer(Answer, Option<u64>),
    Refused(String),
    /// Nothing was sent.
    Unreachable(String),
    Unknown(String),
}

/// One client.
pub(crate) struct Worker<'a> {
    world: &'a World,
    number: usize,
    home: usize,
    away_until: Option<Instant>,
    random: Random,
    clients: HashMap<(usize, String), Client>,
    /// What it last saw of each register: what a swap expects.
    last_seen: HashMap<Place, Content>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World, number: usize) -> Self {
        Self {
            world,
            number,
            home: number % NODES,
            away_until: None,
            random: Random::new(world.seed, 1 + number as u64),
            clients: HashMap::new(),
            last_seen: HashMap::new(),
        }
    }

    /// Asks until the run is over.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        while !self.world.is_over() {
            let Some(tenant) = self.tenant() else {
                sleep(PAUSE).await;
                continue;
            };
            let (store, key, request) = self.choose(&tenant);
            let is_served = self.perform(&tenant, store, &key, request).await?;
            let pause = self.world.interval.mul_f64(0.5 + self.random.below(1_000) as f64 / 1_000.0);
            sleep(if is_served { pause } else { pause.max(PAUSE) }).await;
        }
        Ok(())
    }

    fn tenant(&mut self) -> Option<Tenant> {
        let tenants = self.world.tenants();
        let purpose = match self.random.below(10) {
            0..=5 => Purpose::Main,
            6..=7 => Purpose::Tight,
            _ => Purpose::Passing,
        };
        let of_purpose: Vec<&Tenant> = tenants.iter().filter(|tenant| tenant.purpose == purpose).collect();
        if of_purpose.is_empty() {
            return tenants.first().cloned();
        }
        let chosen = usize::try_from(self.random.below(of_purpose.len() as u64)).unwrap_or(0);
        of_purpose.get(chosen).map(|tenant| (*tenant).clone())
    }

    fn choose(&mut self, tenant: &Tenant) -> (Store, String, Request) {
        let number = self.world.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if number.is_multiple_of(512) {
            self.last_seen.clear();
        }
        // Values are told apart by the number of the operation that wrote them, however often they are bumped.
        let is_flooding = self.world.is_flooding.load(Ordering::Relaxed) && tenant.purpose == Purpose::Main;
        let is_long = self.random.below(64) == 0 || is_flooding;
        let signed = i64::try_from(number).unwrap_or(0);
        let new = value::written(signed, is_long);
        // What stays for ever is short.
        let kept = value::written(signed, false);
        match (self.random.below(40), tenant.purpose) {
            (0, Purpose::Main) => return (Store::Values, format!("{PREFIX}/once/{number}"), Request::SetNx(kept)),
            (1..=3, _) => return (Store::Values, format!("{PREFIX}/sum"), Request::Bump(1)),
            (4, _) => return (Store::Values, format!("{PREFIX}/sum"), Request::Get),
            _ => {}
        }
        let register = number / OPERATIONS_PER_REGISTERS * REGISTERS + self.random.below(REGISTERS);
        let store = self.random.pick(&[Store::Values, Store::Cache]);
        let key = format!("{PREFIX}/{register}");
        if is_flooding && store == Store::Values {
            return (store, key, Request::Set(new));
        }
        let request = match (self.random.below(20), store) {
            (0..=7, _) => Request::Get,
            (8..=10, _) => Request::Set(new),
            (11..=12, _) => Request::Delete,
            (13..=15, Store::Values) => Request::Bump(1 + i64::from(self.random.below(8) == 0)),
            _ => match self.last_seen.get(&(store, tenant.name.clone(), key.clone())).copied().flatten() {
                Some(old) => Request::Cas { old, new },
                None => Request::SetNx(new),
            },
        };
        (store, key, request)
    }

    /// The node to ask now.
    fn node(&mut self) -> usize {
        self.away_until = self.away_until.filter(|until| Instant::now() < *until);
        if self.away_until.is_some() { (self.home + 1 + self.number / NODES % 2) % NODES } else { self.home }
    }

    fn client(&mut self, node: usize, tenant: &Tenant) -> anyhow::Result<Client> {
        let place = (node, tenant.name.clone());
        if let Some(client) = self.clients.get(&place) {
            return Ok(client.clone());
        }
        // Those of tenants that are gone are not needed any more.
        if self.clients.len() > 8 * NODES {
            self.clients.clear();
        }
        let client = watch::client(self.world.nodes[node], &tenant.key, ANSWER_WAIT_MAX)?;
        self.clients.insert(place, client.clone());
        Ok(client)
    }

    /// Whether the node did as it was asked.
    async fn perform(&mut self, tenant: &Tenant, store: Store, key: &str, request: Request) -> anyhow::Result<bool> {
        let node = self.node();
        let client = self.client(node, tenant)?;
        let place = (store, tenant.name.clone(), key.to_owned());
        self.world.places.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
        let heard = ask_and_record(self.world, &client, node, self.number, &place, request).await?;
        match heard {
            Heard::Answer(answer, _) => {
                let content = match (answer, request) {
                    (Answer::Content(content), _) => content,
                    (Answer::Sum(sum), _) => Some(sum),
                    (Answer::Done, Request::Set(value)) => Some(value),
                    (Answer::Met(true), Request::SetNx(new) | Request::Cas { new, .. }) => Some(new),
                    (Answer::Met(_) | Answer::Done, _) => None,
                };
                self.last_seen.insert(place, content);
                Ok(true)
            }
            Heard::Unreachable(_) => {
                self.away_until = self.away_until.or(Some(Instant::now() + AWAY));
                Ok(false)
            }
            Heard::Refused(_) | Heard::Unknown(_) => Ok(false),
        }
    }
}

/// Asks one node once, and writes down what it was asked and what it answered.
pub(crate) async fn ask_and_record(
    world: &World,
    client: &Client,
    node: usize,
    number: usize,
    (store, tenant, key): &Place,
    request: Request,
) -> anyhow::Result<Heard> {
    let called_ns = world.recorder.now_ns();
    let result = ask(client, *store, key, request).await;
    let returned_ns = world.recorder.now_ns();
    let heard = match result {
        Ok(heard) => heard,
        Err(wrong) => {
            world.recorder.wrong(format!("node {node}, {store:?} {key} of {tenant}, {request:?}: {wrong}"))?;
            Heard::Unknown(wrong)
        }
    };
    if matches!(&heard, Heard::Refused(code) if code == Code::Unauthorized.as_str()) && !tenant.starts_with(PASSING) {
        world.recorder.wrong(format!("node {node} refuses the key of {tenant}, which nobody has deleted"))?;
    }
    let (outcome, reason) = match &heard {
        Heard::Answer(answer, generation) => {
            (Outcome::Known { returned_ns, answer: *answer, generation: *generation }, None)
        }
        Heard::Refused(reason) | Heard::Unreachable(reason) => (Outcome::Refused, Some(reason.clone())),
        Heard::Unknown(reason) => (Outcome::Unknown, Some(reason.clone())),
    };
    let operation = Operation { store: *store, key: history_key(tenant, key), request, called_ns, outcome };
    world.recorder.operation(&Line { operation, node, client: number, reason })?;
    Ok(heard)
}

/// Asks one node once. An error is an answer that must not be, whatever happened.
async fn ask(client: &Client, store: Store, key: &str, request: Request) -> Result<Heard, String> {
    let result = match (store, request) {
        (Store::Values, Request::Bump(by)) => {
            client.values().bump(key, by).await.map(|answer| answer.map(|sum| Ok(Answer::Sum(sum))))
        }
        (Store::Values, request) => ask_store(&client.values(), key, request).await,
        (Store::Cache, request) => ask_store(&client.cache(), key, request).await,
    };
    match result {
        Ok(answer) => match (store, answer.cache_generation) {
            (Store::Cache, None) => Err("an answer of the Cache without a generation".to_owned()),
            (_, generation) => Ok(Heard::Answer(answer.value?, generation)),
        },
        Err(error) => hear(&error),
    }
}

type Answered = insidb_client::Answer<Result<Answer, String>>;

async fn ask_store<S: Keyspace>(store: &Sdk<S>, key: &str, request: Request) -> Result<Answered, Error> {
    Ok(match request {
        Request::Get => store.get(key).await?.map(|value| match value {
            None => Ok(Answer::Content(None)),
            Some(text) => match value::number(&text).filter(|number| value::text(*number) == text) {
                Some(number) => Ok(Answer::Content(Some(number))),
                None => Err(format!("a value that nobody wrote, of {} bytes", text.len())),
            },
        }),
        Request::Set(value) => store.set(key, &value::text(value)).await?.map(|()| Ok(Answer::Done)),
        Request::Delete => store.delete(key).await?.map(|()| Ok(Answer::Done)),
        Request::SetNx(value) => store.setnx(key, &value::text(value)).await?.map(|done| Ok(Answer::Met(done))),
        Request::Cas { old, new } => {
            store.cas(key, &value::text(old), &value::text(new)).await?.map(|done| Ok(Answer::Met(done)))
        }
        // There is none in the Cache; clients do not ask for it.
        Request::Bump(_) => store.delete(key).await?.map(|()| Err("bump is for the Value Store".to_owned())),
    })
}

/// What an error says about the operation.
fn hear(error: &Error) -> Result<Heard, String> {
    match error {
        Error::Refused(refusal) => match refusal.code {
            Some(
                code @ (Code::NoLeader
                | Code::NoQuorum
                | Code::Overloaded
                | Code::DiskFull
                | Code::MemoryFull
                | Code::DiskQuotaExceeded
                | Code::MemoryQuotaExceeded
                | Code::Unauthorized),
            ) => Ok(Heard::Refused(code.to_string())),
            // What a read is told: nothing was to be done, so nothing was.
            Some(Code::OutcomeUnknown) => Ok(Heard::Unknown(Code::OutcomeUnknown.to_string())),
            _ => Err(format!("refused with status {} {:?}", refusal.status, refusal.code)),
        },
        Error::Unreachable { reason, .. } => Ok(Heard::Unreachable(reason.clone())),
        Error::Interrupted { reason, .. } => Ok(Heard::Unknown(reason.clone())),
        Error::OutcomeUnknown { reason, refusal, .. } => match refusal {
            Some(refusal) if refusal.code != Some(Code::OutcomeUnknown) => {
                Err(format!("refused with status {} {:?}", refusal.status, refusal.code))
            }
            _ => Ok(Heard::Unknown(reason.clone())),
        },
        Error::Config(_) | Error::UnexpectedAnswer { .. } => Err(error.to_string()),
    }
}
