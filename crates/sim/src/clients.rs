//! The clients: each does one operation after another, as one tenant, at any node; and notes what it was told.

use std::collections::BTreeMap;

use api::{code::Code, path};
use axum::{
    body::Body,
    http::{Method, Request},
};
use insidb_oracle::{Answer as Answered, History, Operation, Outcome, Request as Asked, Store};
use serde_json::{Value, json};

use crate::{
    dice::Dice,
    network::{Answer, Net, Place},
    trace::Trace,
};

const MS_NS: u64 = 1_000_000;
/// A client gives a request up after this. Longer than a node takes to answer: what comes later comes from a broken link.
const PATIENCE_NS: u64 = 6_000 * MS_NS;
/// A change whose answer is missing is made within this, or never: a cut holds it up, and a node gives it up in time.
const LATE_CHANGE_NS: u64 = 20_000 * MS_NS;
/// Keys of each kind and store that a tenant uses.
const KEYS: u64 = 3;

/// A tenant, as its clients know it.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) key: String,
    /// The greatest quota that was ever asked for: in the Value Store, in the Cache.
    pub(crate) quota_max: (u64, u64),
    /// The quotas, while they are surely in force: since their last change was acknowledged.
    pub(crate) quota: Option<(u64, u64)>,
    /// How often a change of them was asked for.
    pub(crate) quota_epoch: u64,
    /// Changes under way.
    quota_changes: u32,
    /// Whether several were under way at a time: which of them came last is not known then.
    quota_changes_overlap: bool,
    /// Until when a change of which nothing is known may still come about.
    quota_open_until_ns: u64,
    /// When its deletion was asked for, and when it was acknowledged.
    pub(crate) deletion_called_ns: Option<u64>,
    pub(crate) deletion_acknowledged_ns: Option<u64>,
}

impl Tenant {
    /// One with these quotas in force.
    pub(crate) fn new(name: String, key: String, quota: (u64, u64)) -> Self {
        Self {
            name,
            key,
            quota_max: quota,
            quota: Some(quota),
            quota_epoch: 0,
            quota_changes: 0,
            quota_changes_overlap: false,
            quota_open_until_ns: 0,
            deletion_called_ns: None,
            deletion_acknowledged_ns: None,
        }
    }

    /// A change of the quotas was answered. They are known again when it was the only one, was made, and none of unknown
    /// outcome can still come.
    fn quota_changed(&mut self, now: u64, quota: (u64, u64), answer: Option<&Answer>) {
        self.quota_changes -= 1;
        let is_alone = self.quota_changes == 0 && !self.quota_changes_overlap;
        self.quota_changes_overlap &= self.quota_changes > 0;
        match answer.map(|answer| answer.status) {
            Some(200) if is_alone && self.quota_open_until_ns < now => self.quota = Some(quota),
            Some(200) => {}
            _ => self.quota_open_until_ns = now + LATE_CHANGE_NS,
        }
    }
}

/// What a request under way is.
enum Pending {
    /// One on one key.
    Single { tenant: usize, client: Option<usize>, operation: Operation },
    /// Usage and limits of a tenant.
    Usage { tenant: usize, called_ns: u64 },
    /// A page of a tenant's keys.
    Page { tenant: usize, called_ns: u64 },
    /// A read of what a node has, which asks nobody else: of a tenant that still is one.
    Stale { tenant: usize, called_ns: u64 },
    /// A change of a tenant's quotas to these.
    Limits { tenant: usize, quota: (u64, u64) },
    /// A tenant's end.
    Deletion { tenant: usize },
    /// An operator's, whose answer somebody waits for.
    Waited,
}

/// All clients.
pub(crate) struct Clients {
    net: Net,
    place: Place,
    nodes: usize,
    dice: Dice,
    trace: Trace,
    root_key: String,
    pub(crate) tenants: Vec<Tenant>,
    /// Who is free from when on.
    free_at: Vec<u64>,
    pending: BTreeMap<u64, (u64, Pending)>,
    waited: BTreeMap<u64, Option<Answer>>,
    next_value: i64,
    /// How many times as long values are as usually, and quotas as great.
    pub(crate) scale: u64,
    pub(crate) history: History,
    /// What was wrong by itself.
    pub(crate) findings: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// How many times as long values are in runs of long ones: most of them then fit no page of the store's file.
const LONG: u64 = 60;

/// The text of a number, of a length of its own, up to 192 bytes times `scale`.
fn text(number: i64, is_counter: bool, scale: u64) -> String {
    if is_counter {
        number.to_string()
    } else {
        let width = (12 + number.unsigned_abs() * 7_919 % 180) * scale;
        format!("{number:0width$}", width = usize::try_from(width).expect("not so long"))
    }
}

fn is_counter(key: &str) -> bool {
    key.contains("count")
}

pub(crate) fn keys(store: Store) -> Vec<String> {
    let plain = (0..KEYS).map(|n| format!("key {n}"));
    match store {
        Store::Values => plain.chain((0..KEYS).map(|n| format!("key count {n}"))).collect(),
        Store::Cache => plain.collect(),
    }
}

impl Clients {
    pub(crate) fn new(net: Net, nodes: usize, clients: usize, root_key: &str, mut dice: Dice, trace: Trace) -> Self {
        let scale = if dice.chance(250) { LONG } else { 1 };
        Self {
            net,
            place: nodes,
            nodes,
            dice,
            trace,
            root_key: root_key.to_owned(),
            tenants: Vec::new(),
            free_at: vec![0; clients],
            pending: BTreeMap::new(),
            waited: BTreeMap::new(),
            next_value: 0,
            scale,
            history: History::default(),
            findings: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    fn send(&mut self, now: u64, to: Place, key: &str, call: (Method, &str, Option<Value>), pending: Pending) -> u64 {
        let (method, below, body) = call;
        let is_private = below.starts_with("/admin") || below == path::READYZ;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{below}", path::BASE))
            .header("authorization", format!("Bearer {key}"))
            .header("accept", "application/problem+json")
            .header("content-length", body.len())
            .body(Body::from(body))
            .expect("a well-formed request");
        let id = self.net.request(self.place, to, is_private, request);
        self.pending.insert(id, (now, pending));
        id
    }

    /// An operator's request, whose answer [`Clients::take_answer`] has later.
    pub(crate) fn administer(&mut self, now: u64, to: Place, call: (Method, &str, Option<Value>)) -> u64 {
        let key = self.root_key.clone();
        self.send(now, to, &key, call, Pending::Waited)
    }

    /// A tenant's request, whose answer [`Clients::take_answer`] has later.
    pub(crate) fn ask(&mut self, now: u64, to: Place, tenant: usize, call: (Method, &str, Option<Value>)) -> u64 {
        let key = self.tenants[tenant].key.clone();
        self.send(now, to, &key, call, Pending::Waited)
    }

    /// The answer to a request of an operator, once it has one; none within when the connection broke.
    pub(crate) fn take_answer(&mut self, id: u64) -> Option<Option<Answer>> {
        self.waited.remove(&id)
    }

    /// Takes what was answered, gives up what takes too long, and asks anew while `asks`.
    pub(crate) fn step(&mut self, now: u64, asks: bool) {
        for (id, answer) in self.net.responses(self.place) {
            if let Some((_, pending)) = self.pending.remove(&id) {
                self.answered(now, id, pending, answer);
            }
        }
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, (at, _))| at + PATIENCE_NS <= now).map(|(id, _)| *id).collect();
        for id in late {
            let (_, pending) = self.pending.remove(&id).expect("it is there");
            self.answered(now, id, pending, None);
        }
        for client in 0..self.free_at.len() {
            if asks && self.free_at[client] <= now {
                self.free_at[client] = u64::MAX;
                self.begin(now, client);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    fn begin(&mut self, now: u64, client: usize) {
        let tenant = usize::try_from(self.dice.below(self.tenants.len() as u64)).expect("an index");
        let store = if self.dice.chance(600) { Store::Values } else { Store::Cache };
        let key = self.dice.pick(&keys(store)).clone();
        self.next_value += 1;
        let value = self.next_value;
        let asked = match (self.dice.below(10), is_counter(&key)) {
            (0..=3, _) => Asked::Get,
            (4, _) => Asked::Delete,
            (5, _) => Asked::SetNx(value),
            (_, true) => Asked::Bump(i64::try_from(self.dice.between(1, 9)).expect("small")),
            // Mostly of what may well be there.
            (6 | 7, false) => {
                Asked::Cas { old: value - i64::try_from(self.dice.between(1, 12)).expect("small"), new: value }
            }
            (_, false) => Asked::Set(value),
        };
        self.ask_single(now, Some(client), tenant, store, key, asked);
        if self.dice.chance(30) {
            let (to, key) = (self.any_node(), self.tenants[tenant].key.clone());
            let pending = Pending::Usage { tenant, called_ns: now };
            self.send(now, to, &key, (Method::GET, path::LIMITS, None), pending);
        }
        if self.dice.chance(30) {
            let (to, key) = (self.any_node(), self.tenants[tenant].key.clone());
            let body = json!({"prefix": "key", "offset": 0, "limit": 100});
            let below = format!("{}{}", path::VS, path::ITERATE);
            let pending = Pending::Page { tenant, called_ns: now };
            self.send(now, to, &key, (Method::POST, &below, Some(body)), pending);
        }
        if self.dice.chance(100) {
            self.ask_stale(now, tenant);
        }
    }

    fn ask_stale(&mut self, now: u64, tenant: usize) {
        let (to, key) = (self.any_node(), self.tenants[tenant].key.clone());
        let below = format!("{}?key=key%200&consistency=stale", path::VS);
        self.send(now, to, &key, (Method::GET, &below, None), Pending::Stale { tenant, called_ns: now });
    }

    fn any_node(&mut self) -> Place {
        usize::try_from(self.dice.below(self.nodes as u64)).expect("a place")
    }

    fn ask_single(&mut self, now: u64, client: Option<usize>, tenant: usize, store: Store, key: String, asked: Asked) {
        let to = self.any_node();
        let text = |number| text(number, is_counter(&key), self.scale);
        let root = if store == Store::Values { path::VS } else { path::CACHE };
        let legacy = if store == Store::Values { "" } else { path::CACHE };
        let (below, body) = match asked {
            Asked::Get => (format!("{root}{}", path::GET), json!({"key": key})),
            Asked::Set(value) => (root.to_owned(), json!({"key": key, "value": text(value)})),
            Asked::SetNx(value) => (format!("{root}{}", path::SETNX), json!({"key": key, "value": text(value)})),
            Asked::Cas { old, new } => {
                (format!("{root}{}", path::CAS), json!({"key": key, "old_value": text(old), "new_value": text(new)}))
            }
            Asked::Delete => (format!("{legacy}/delete"), json!({"key": key})),
            Asked::Bump(by) => (format!("{root}{}", path::BUMP), json!({"key": key, "value": by.to_string()})),
        };
        let name = format!("{}/{key}", self.tenants[tenant].name);
        let operation = Operation { store, key: name, request: asked, called_ns: now, outcome: Outcome::Unknown };
        let token = self.tenants[tenant].key.clone();
        let pending = Pending::Single { tenant, client, operation };
        self.send(now, to, &token, (Method::POST, &below, Some(body)), pending);
    }

    /// Makes the tenant end, at any node.
    pub(crate) fn delete_tenant(&mut self, now: u64, tenant: usize) {
        let (to, root) = (self.any_node(), self.root_key.clone());
        self.tenants[tenant].deletion_called_ns.get_or_insert(now);
        let body = json!({"key": self.tenants[tenant].key});
        self.send(now, to, &root, (Method::POST, path::ADMIN_DELETE, Some(body)), Pending::Deletion { tenant });
    }

    /// Changes a tenant's quotas, at any node.
    pub(crate) fn change_limits(&mut self, now: u64, tenant: usize, disk: u64, memory: u64) {
        let (to, root) = (self.any_node(), self.root_key.clone());
        let of_tenant = &mut self.tenants[tenant];
        let max = &mut of_tenant.quota_max;
        *max = (max.0.max(disk), max.1.max(memory));
        of_tenant.quota = None;
        of_tenant.quota_epoch += 1;
        of_tenant.quota_changes_overlap |= of_tenant.quota_changes > 0;
        of_tenant.quota_changes += 1;
        let body = json!({
            "api_key": self.tenants[tenant].key,
            "limits": {"bytes_on_disk": disk, "bytes_in_memory": memory},
        });
        let pending = Pending::Limits { tenant, quota: (disk, memory) };
        self.send(now, to, &root, (Method::POST, path::ADMIN_LIMITS_SET, Some(body)), pending);
    }

    fn answered(&mut self, now: u64, id: u64, pending: Pending, answer: Option<Answer>) {
        match pending {
            Pending::Single { tenant, client, operation } => {
                if let Some(client) = client {
                    self.free_at[client] = now + self.dice.between(1, 40) * MS_NS;
                }
                self.finish_single(now, tenant, operation, answer);
            }
            Pending::Usage { tenant, called_ns } => {
                if let Some(usage) = self.served(tenant, called_ns, &answer) {
                    self.check_quota(tenant, &usage);
                }
            }
            Pending::Page { tenant, called_ns } => {
                if let Some(page) = self.served(tenant, called_ns, &answer) {
                    self.check_page(tenant, &page);
                }
            }
            Pending::Stale { tenant, called_ns } => drop(self.served(tenant, called_ns, &answer)),
            Pending::Limits { tenant, quota } => self.tenants[tenant].quota_changed(now, quota, answer.as_ref()),
            Pending::Deletion { tenant } => {
                let done = answer.is_some_and(|answer| [200, 404].contains(&answer.status));
                let tenant = &mut self.tenants[tenant];
                if done {
                    tenant.deletion_acknowledged_ns.get_or_insert(now);
                }
            }
            Pending::Waited => {
                self.waited.insert(id, answer);
            }
        }
    }

    /// The body of a 200 of a tenant that was not deleted before it was asked.
    fn served(&mut self, tenant: usize, called_ns: u64, answer: &Option<Answer>) -> Option<Value> {
        let answer = answer.as_ref().filter(|answer| answer.status == 200)?;
        let Tenant { name, deletion_acknowledged_ns, .. } = &self.tenants[tenant];
        if deletion_acknowledged_ns.is_some_and(|at| at < called_ns) {
            self.findings
                .push(format!("tenant {name} was served {called_ns} ns, after its deletion had been acknowledged"));
        }
        serde_json::from_slice(&answer.body).ok()
    }

    fn check_quota(&mut self, tenant: usize, usage: &Value) {
        let Tenant { name, quota_max, .. } = &self.tenants[tenant];
        for (field, max) in [("bytes_on_disk", quota_max.0), ("bytes_in_memory", quota_max.1)] {
            let used = usage["usage"][field].as_u64().unwrap_or(u64::MAX);
            if used > max {
                self.findings.push(format!("tenant {name} uses {used} {field}, and never had more than {max}"));
            }
        }
    }

    fn check_page(&mut self, tenant: usize, page: &Value) {
        let found: Vec<&str> = page.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let known = keys(Store::Values);
        let is_sorted = found.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_sorted || found.iter().any(|key| !known.iter().any(|known| known == key)) {
            self.findings.push(format!("tenant {} was shown the keys {found:?}", self.tenants[tenant].name));
        }
    }

    fn finish_single(&mut self, now: u64, tenant: usize, mut operation: Operation, answer: Option<Answer>) {
        let called_ns = operation.called_ns;
        let body = self.served(tenant, called_ns, &answer);
        operation.outcome = match answer {
            None => Outcome::Unknown,
            Some(answer) => {
                let known =
                    |answered| Outcome::Known { returned_ns: now, answer: answered, generation: answer.generation };
                match (operation.request, answer.status) {
                    (Asked::Get, 200) => match number(body.as_ref()) {
                        Some(held) => known(Answered::Content(Some(held))),
                        None => self.strange(&operation, &answer),
                    },
                    (Asked::Bump(_), 200) => match number(body.as_ref()) {
                        Some(sum) => known(Answered::Sum(sum)),
                        None => self.strange(&operation, &answer),
                    },
                    (Asked::Set(_) | Asked::Delete, 200) => known(Answered::Done),
                    (Asked::SetNx(_) | Asked::Cas { .. }, 200) => known(Answered::Met(true)),
                    (_, status) => self.refusal(&operation, &answer, status, known),
                }
            }
        };
        let outcome = match operation.outcome {
            Outcome::Known { .. } => "answered",
            Outcome::Unknown => "unknown",
            Outcome::Refused => "refused",
        };
        *self.counts.entry(outcome).or_default() += 1;
        let Operation { key, request, .. } = &operation;
        self.trace.note(now, &format!("{key} {request:?} {:?}", operation.outcome));
        // Nothing was promised of what is asked while the tenant ends.
        if self.tenants[tenant].deletion_called_ns.is_none_or(|at| called_ns < at && now < at) {
            self.history.push(operation);
        } else if self.tenants[tenant].deletion_called_ns.is_some_and(|at| called_ns < at) {
            self.history.push(Operation { outcome: Outcome::Unknown, ..operation });
        }
    }

    fn refusal(
        &mut self,
        operation: &Operation,
        answer: &Answer,
        status: u16,
        known: impl Fn(Answered) -> Outcome,
    ) -> Outcome {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let code: Option<Code> = serde_json::from_value(problem["code"].clone()).ok();
        match (operation.request, code) {
            (Asked::Get, Some(Code::KeyNotFound)) => known(Answered::Content(None)),
            (Asked::SetNx(_), Some(Code::KeyExists)) | (Asked::Cas { .. }, Some(Code::ValueDiffers)) => {
                known(Answered::Met(false))
            }
            (_, Some(Code::OutcomeUnknown)) => Outcome::Unknown,
            // A failed disk, or a bug: nothing is known, and the node ends.
            (_, Some(Code::Internal)) => Outcome::Unknown,
            (
                _,
                Some(
                    Code::NoLeader
                    | Code::NoQuorum
                    | Code::Overloaded
                    | Code::DiskFull
                    | Code::MemoryFull
                    | Code::DiskQuotaExceeded
                    | Code::MemoryQuotaExceeded
                    | Code::RateLimited
                    | Code::Unauthorized,
                ),
            ) => {
                let code = code.expect("matched");
                *self.counts.entry(code.as_str()).or_default() += 1;
                Outcome::Refused
            }
            _ => {
                let _ = status;
                self.strange(operation, answer)
            }
        }
    }

    fn strange(&mut self, operation: &Operation, answer: &Answer) -> Outcome {
        let text = String::from_utf8_lossy(&answer.body);
        self.findings.push(format!("{:?} was answered {} {text}", operation.request, answer.status));
        Outcome::Unknown
    }
}

fn number(body: Option<&Value>) -> Option<i64> {
    body?["data"].as_str()?.parse().ok()
}
