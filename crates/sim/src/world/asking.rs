//! What an operator of the simulated cluster asks: whether all nodes serve, for tenants, and what is there in the end.

use std::collections::BTreeMap;

use api::path;
use axum::http::Method;
use insidb_oracle::Store;
use serde_json::{Value, json};

use super::{MS_NS, QUOTA_BYTES_MAX, RECOVERY_MS, World};
use crate::{
    clients::{Tenant, keys},
    invariants::{Invariant, Violation, contents, contents::Shown, holds},
    network::{Answer, Place},
};

/// How long an operator waits for an answer before it asks again.
const ANSWER_WAIT_MS: u64 = 2_000;

impl World {
    /// Waits until each node has served since its start, and serves both stores now.
    pub(super) fn await_all_serving(&mut self, what: &str) -> Result<(), Violation> {
        let until = self.now_ns + RECOVERY_MS * MS_NS;
        for place in 0..self.hosts.len() {
            let mut last = None;
            loop {
                let is_up = self.hosts[place].has_served() && self.hosts[place].app().is_some();
                if is_up {
                    let answer = self.administer(place, (Method::GET, path::READYZ, None), until)?;
                    if answer.as_ref().is_some_and(|answer| answer.status == 200) {
                        break;
                    }
                    last = answer.or(last);
                }
                if self.now_ns >= until {
                    let all = self.tell_all()?;
                    let detail =
                        format!("waiting for {what}: node {place} answers {last:?} after {RECOVERY_MS} ms\n{all}");
                    return Err(Violation { invariant: Invariant::ServesAgain, detail });
                }
                self.tick(false)?;
            }
        }
        Ok(())
    }

    /// What all nodes say of the cluster.
    fn tell_all(&mut self) -> Result<String, Violation> {
        let mut all = String::new();
        for place in 0..self.hosts.len() {
            let until = self.now_ns + 2_000 * MS_NS;
            let answer = self.administer(place, (Method::GET, path::CLUSTER_STATUS, None), until)?;
            let said = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
            let cache = self.hosts[place].app().map(|app| app.describe_cache()).unwrap_or_default();
            let missing = self.hosts[place].missing();
            all += &format!("  node {place}: {}\n{cache}\n{missing}\n", said.unwrap_or_else(|| "no answer".to_owned()));
        }
        Ok(all)
    }

    /// An operator's request and its answer; none when the connection broke.
    fn administer(
        &mut self,
        place: Place,
        call: (Method, &str, Option<Value>),
        until: u64,
    ) -> Result<Option<Answer>, Violation> {
        let now = self.now_ns;
        let id = self.clients.administer(now, place, call);
        self.answer(id, until)
    }

    /// The answer to a request, for which nobody waits longer than an HTTP client would: either may have been lost.
    fn answer(&mut self, id: u64, until: u64) -> Result<Option<Answer>, Violation> {
        let until = until.min(self.now_ns + ANSWER_WAIT_MS * MS_NS);
        loop {
            if let Some(answer) = self.clients.take_answer(id) {
                return Ok(answer);
            }
            if self.now_ns >= until {
                return Ok(None);
            }
            self.tick(false)?;
        }
    }

    /// An answer of 200, however often it must be asked for.
    fn insist(
        &mut self,
        place: Place,
        tenant: Option<usize>,
        call: (Method, &str, Option<Value>),
    ) -> Result<Value, Violation> {
        let until = self.now_ns + RECOVERY_MS * MS_NS;
        let mut last = None;
        loop {
            let (now, again) = (self.now_ns, call.clone());
            let id = match tenant {
                Some(tenant) => self.clients.ask(now, place, tenant, again),
                None => self.clients.administer(now, place, again),
            };
            let answer = self.answer(id, until)?;
            if let Some(answer) = answer.as_ref().filter(|answer| [200, 404].contains(&answer.status)) {
                return Ok(serde_json::from_slice(&answer.body).unwrap_or_default());
            }
            last = answer.or(last);
            holds(self.now_ns < until, Invariant::ServesAgain, || {
                format!("node {place} does not answer {} with 200, but {last:?}", call.1)
            })?;
        }
    }

    pub(super) fn make_tenant(&mut self) -> Result<(), Violation> {
        let name = format!("tenant {}", self.clients.tenants.len());
        let made = self.insist(0, None, (Method::POST, path::ADMIN_CREATE, Some(json!({"key_name": name}))))?;
        let key = made["key"].as_str().unwrap_or_default().to_owned();
        let scale = self.clients.scale;
        let mut quota = || self.dice.between(150, QUOTA_BYTES_MAX) * scale;
        let quota = (quota(), quota());
        let limits = json!({
            "api_key": key,
            "limits": {"bytes_on_disk": quota.0, "bytes_in_memory": quota.1, "rate_per_second_data_limit": 1_000_000},
        });
        self.insist(0, None, (Method::POST, path::ADMIN_LIMITS_SET, Some(limits)))?;
        self.clients.tenants.push(Tenant::new(name, key, quota));
        Ok(())
    }

    pub(super) fn check_contents(&mut self) -> Result<(), Violation> {
        for tenant in 0..self.clients.tenants.len() {
            if self.clients.tenants[tenant].deletion_called_ns.is_some() {
                continue;
            }
            for (store, root, usage) in
                [(Store::Values, path::VS, "bytes_on_disk"), (Store::Cache, path::CACHE, "bytes_in_memory")]
            {
                let mut shown = Vec::new();
                for place in 0..self.hosts.len() {
                    shown.push((place, self.shown(place, tenant, store, root, usage)?));
                }
                contents::check(&self.clients.tenants[tenant].name, store, &shown)?;
            }
        }
        Ok(())
    }

    fn shown(
        &mut self,
        place: Place,
        tenant: usize,
        store: Store,
        root: &str,
        usage: &str,
    ) -> Result<Shown, Violation> {
        let mut values = BTreeMap::new();
        for key in keys(store) {
            let below = format!("{root}{}", path::GET);
            let got = self.insist(place, Some(tenant), (Method::POST, &below, Some(json!({"key": key}))))?;
            if let Some(value) = got["data"].as_str() {
                values.insert(key, value.to_owned());
            }
        }
        let below = format!("{root}{}", path::ITERATE);
        let body = json!({"prefix": "key", "offset": 0, "limit": 100});
        let page = self.insist(place, Some(tenant), (Method::POST, &below, Some(body)))?;
        let page = page.as_array().into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        let limits = self.insist(place, Some(tenant), (Method::GET, path::LIMITS, None))?;
        let usage_bytes = limits["usage"][usage].as_u64().unwrap_or(u64::MAX);
        Ok(Shown { values, page, usage_bytes })
    }
}
