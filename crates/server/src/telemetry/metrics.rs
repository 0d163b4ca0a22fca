//! Metrics for Prometheus. Labels have few values each, and never a tenant's name: what a scrape costs does not grow
//! with the number of tenants.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{code::Code, response::Ops};
use consensus::{env::Env, log::disk::Observer};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use storage::Engine;

use crate::{
    env::monotonic_ns,
    http::{App, router::Class},
    service,
};

/// Operations per second are taken over this long.
const OPS_WINDOW: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByClass {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStatus {
    class: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStore {
    store: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByBucket {
    limit: &'static str,
}

/// How long the log's syncs take. Clones count together.
#[derive(Clone, Debug)]
struct LogLatency(Histogram);

impl Observer for LogLatency {
    fn synced(&self, took: Duration, _bytes: usize, _records: usize) {
        self.0.observe(took.as_secs_f64());
    }
}

/// What is counted over the node's life.
pub(crate) struct Metrics {
    env: Arc<dyn Env>,
    registry: Registry,
    /// By class and place in `statuses`: looked up without a lock, for every request.
    requests: [Vec<Counter>; Class::ALL.len()],
    statuses: Vec<u16>,
    durations: [Histogram; Class::ALL.len()],
    rate_limited: Counter,
    address_rate_limited: Counter,
    log_latency: LogLatency,
    gauges: Gauges,
    operations: [AtomicU64; Class::ALL.len()],
    samples: Mutex<VecDeque<Sample>>,
}

/// What is read off the node at each scrape.
#[derive(Default)]
struct Gauges {
    in_flight: Gauge,
    uptime: Gauge<f64, AtomicU64>,
    applied_index: Family<ByStore, Gauge<u64, AtomicU64>>,
    term: Family<ByStore, Gauge<u64, AtomicU64>>,
    leads: Family<ByStore, Gauge>,
    checkpoint_age: Gauge<f64, AtomicU64>,
    bytes: Family<ByStore, Gauge<u64, AtomicU64>>,
    keys: Family<ByStore, Gauge<u64, AtomicU64>>,
    api_keys: Gauge<u64, AtomicU64>,
    cache_generation: Gauge<u64, AtomicU64>,
}

#[derive(Clone, Copy)]
struct Sample {
    at_ns: u64,
    operations: [u64; Class::ALL.len()],
}

impl Metrics {
    /// Nothing counted yet but the log events that were dropped, which the log itself counts.
    pub(crate) fn new(env: Arc<dyn Env>, dropped_log_events: Counter) -> Self {
        let mut registry = Registry::with_prefix("insidb");
        let requests = Family::<ByStatus, Counter>::default();
        let durations = Family::<ByClass, Histogram, fn() -> Histogram>::new_with_constructor(|| histogram(50e-6, 18));
        let rate_limited = Family::<ByBucket, Counter>::default();
        let log_latency = LogLatency(histogram(20e-6, 18));
        registry.register("http_requests", "Requests answered", requests.clone());
        registry.register_with_unit("http_request_duration", "From head to answer", Unit::Seconds, durations.clone());
        registry.register("rate_limited", "Requests refused by a rate limit", rate_limited.clone());
        registry.register("log_events_dropped", "Log events that nobody read in time", dropped_log_events);
        registry.register_with_unit("log_fsync", "Syncs of the log", Unit::Seconds, log_latency.0.clone());
        let gauges = Gauges::default();
        gauges.register(&mut registry);

        let mut statuses: Vec<u16> = Code::ALL.iter().map(|code| code.status()).chain([200, 499]).collect();
        statuses.sort_unstable();
        statuses.dedup();
        let by_status = |class: Class| {
            let counter = |status: &u16| ByStatus { class: class.name(), status: *status };
            statuses.iter().map(|status| requests.get_or_create(&counter(status)).clone()).collect()
        };
        let limited = |limit| rate_limited.get_or_create(&ByBucket { limit }).clone();
        Self {
            requests: Class::ALL.map(by_status),
            durations: Class::ALL.map(|class| durations.get_or_create(&ByClass { class: class.name() }).clone()),
            rate_limited: limited("scope"),
            address_rate_limited: limited("address"),
            env,
            registry,
            statuses,
            log_latency,
            gauges,
            operations: Default::default(),
            samples: Mutex::default(),
        }
    }

    /// Who counts the log's syncs.
    pub(crate) fn log_observer(&self) -> Arc<dyn Observer> {
        Arc::new(self.log_latency.clone())
    }

    /// Counts one answered request.
    pub(crate) fn observe_request(&self, class: Class, status: u16, code: Option<Code>, took: Duration) {
        let class = class.index();
        self.operations[class].fetch_add(1, Ordering::Relaxed);
        if let Ok(place) = self.statuses.binary_search(&status) {
            self.requests[class][place].inc();
        }
        self.durations[class].observe(took.as_secs_f64());
        if code == Some(Code::RateLimited) {
            self.rate_limited.inc();
        } else if code == Some(Code::AddressRateLimited) {
            self.address_rate_limited.inc();
        }
    }

    /// Remembers the counts of now. Called every second.
    pub(crate) fn sample(&self) {
        let sample = self.now();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        while samples.front().is_some_and(|oldest| sample.at_ns - oldest.at_ns > OPS_WINDOW.as_nanos() as u64) {
            samples.pop_front();
        }
    }

    /// Operations per second over the last seconds.
    pub(crate) fn ops(&self) -> Ops {
        let now = self.now();
        let start = Sample { at_ns: 0, operations: [0; Class::ALL.len()] };
        let oldest = self.samples.lock().unwrap_or_else(PoisonError::into_inner).front().copied().unwrap_or(start);
        let seconds = (now.at_ns - oldest.at_ns).max(1) as f64 / 1e9;
        let rate = |class: Class| (now.operations[class.index()] - oldest.operations[class.index()]) as f64 / seconds;
        Ops { op_vs: rate(Class::Values), op_cache: rate(Class::Cache), op_system: rate(Class::System) }
    }

    fn now(&self) -> Sample {
        let operations = Class::ALL.map(|class| self.operations[class.index()].load(Ordering::Relaxed));
        Sample { at_ns: monotonic_ns(&*self.env), operations }
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn encode(&self, app: &App) -> Result<String, service::Error> {
        self.gauges.update(app)?;
        self.gauges.uptime.set(self.env.monotonic().as_secs_f64());
        let mut page = String::new();
        text::encode(&mut page, &self.registry)
            .map_err(|fmt::Error| service::Error::Internal("the metrics cannot be written".to_owned()))?;
        Ok(page)
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("http_requests_in_flight", "Requests in flight", self.in_flight.clone());
        registry.register_with_unit("uptime", "Since the start of the process", Unit::Seconds, self.uptime.clone());
        registry.register("applied_index", "Last log index applied", self.applied_index.clone());
        registry.register("raft_term", "Grows with each election", self.term.clone());
        registry.register("raft_leads", "Whether this node leads the store: 1 or 0", self.leads.clone());
        let age = self.checkpoint_age.clone();
        registry.register_with_unit("checkpoint_age", "Since the last checkpoint ended", Unit::Seconds, age);
        registry.register_with_unit("stored", "Keys and values stored", Unit::Bytes, self.bytes.clone());
        registry.register("stored_keys", "Keys stored", self.keys.clone());
        registry.register("api_keys", "API keys, without aliases", self.api_keys.clone());
        registry.register("cache_generation", "Generation of the cache", self.cache_generation.clone());
    }

    fn update(&self, app: &App) -> Result<(), service::Error> {
        let in_flight = app.places.taken() + app.operator_places.taken();
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        let values = app.service.values();
        self.checkpoint_age.set(values.checkpoints().at.elapsed().as_secs_f64());
        self.update_store("vs", values)?;
        self.api_keys.set(values.local().totals()?.entities);
        if let Some(cache) = app.service.cache() {
            self.cache_generation.set(cache.generation);
            self.update_store("cache", &cache.group)?;
        }
        Ok(())
    }

    fn update_store<E: Engine>(&self, store: &'static str, group: &consensus::Group<E>) -> Result<(), service::Error> {
        let totals = group.local().totals()?;
        let label = ByStore { store };
        let status = group.status();
        self.applied_index.get_or_create(&label).set(status.applied_index);
        self.term.get_or_create(&label).set(status.term);
        self.leads.get_or_create(&label).set(i64::from(status.is_leader));
        self.bytes.get_or_create(&label).set(totals.bytes);
        self.keys.get_or_create(&label).set(totals.keys);
        Ok(())
    }
}

/// A histogram of times: `buckets` of them, from `least_s` seconds on, each twice the one before.
fn histogram(least_s: f64, buckets: u16) -> Histogram {
    Histogram::new(exponential_buckets(least_s, 2.0, buckets))
}
