//! One run: a cluster, its clients, what goes wrong, and what must hold.

use std::{collections::BTreeMap, thread, time::Duration};

use api::path;
use axum::http::Method;
use insidb_oracle::Store;
use serde_json::json;
use server::embed::{Standing, Usage};

use crate::{
    clients::Clients,
    dice::Dice,
    entropy::Simulated,
    host::{Host, SECRET, address},
    invariants::{
        Invariant, Violation, holds,
        leaders::Leaders,
        quotas::{self, Quotas},
        states::States,
    },
    nemesis::{Fault, Nemesis},
    network::{Net, Place, Weather},
    trace::Trace,
};

mod asking;

const MS_NS: u64 = 1_000_000;
/// A tick: the least time between two things that happen to a node from outside.
const TICK_NS: u64 = MS_NS;
/// When the simulated time begins, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// The greatest quota that a tenant gets, where values are not longer than usually: about what its keys and values weigh, so that it is met again and again.
const QUOTA_BYTES_MAX: u64 = 700;
/// How often invariants of the nodes' states are looked at.
const LOOK_TICKS: u64 = 16;
/// How long the cluster may take to form, and to serve again behind the faults.
const RECOVERY_MS: u64 = 30_000;
/// What a node says that finds no room to make its store.
const NO_ROOM: &str = "no space left on the disk";
/// What a node says whose log is empty and should not be.
const EMPTY_LOG: &str = "its log is empty: it was lost";
/// What a node says that was removed.
const REMOVED: &str = "was removed from the cluster";
const FINE: Weather = Weather { delay_us: (50, 900), loss_per_mille: 0, doubled_per_mille: 0 };

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How long faults and clients go on, in simulated time.
    pub duration: Duration,
    /// Nodes; drawn from the seed when none is given.
    pub nodes: Option<usize>,
    /// Where the run is noted.
    pub trace: Trace,
}

/// What was done in a run in which all held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Operations, by what clients learned of them.
    pub operations: BTreeMap<String, u64>,
    /// Faults, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Generations of the Cache that were seen.
    pub generations: u64,
    /// Events of the trace, and what they hash to.
    pub digest: (u64, u64),
}

/// Runs one simulation, on a thread of its own. The first run of a process is the one that a seed stands for: a later one
/// has other numbers in it, since tokio counts the runtimes that a process has made.
///
/// # Errors
/// What did not hold.
///
/// # Panics
/// When the machine has no thread or no directory to give.
pub fn run(options: Options) -> Result<Report, Violation> {
    let dice = Dice::new(options.seed);
    let _simulated = Simulated::begin(dice.fork("entropy"));
    let body = move || World::new(&options, &dice).run(&options);
    let thread = thread::Builder::new().name("sim".to_owned()).spawn(body).expect("a thread can be started");
    thread.join().unwrap_or_else(|reason| {
        let said = reason.downcast_ref::<String>().cloned();
        let detail = said.or_else(|| reason.downcast_ref::<&str>().map(|said| (*said).to_owned())).unwrap_or_default();
        Err(Violation { invariant: Invariant::NoPanic, detail })
    })
}

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum End {
    Start(Place),
    Wake(Place),
    Heal,
    Calm,
    RunDisk(Place),
    EmptyDisk(Place),
    SetClock(Place),
}

struct World {
    now_ns: u64,
    ticks: u64,
    net: Net,
    hosts: Vec<Host>,
    clients: Clients,
    dice: Dice,
    trace: Trace,
    leaders: Leaders,
    states: States,
    quotas: Quotas,
    ends: BTreeMap<(u64, u64), End>,
    faults: BTreeMap<String, u64>,
    generations: u64,
    /// A disk was lost, or rots, or a node was removed: another one would be a majority's.
    has_lost_disk: bool,
    /// Whose disk may have failed: it may end by itself.
    may_end: Vec<bool>,
    rotten: Option<Place>,
    /// Whose removal was asked for, once in a run.
    removed: Option<Place>,
    _home: tempfile::TempDir,
}

impl World {
    fn new(options: &Options, dice: &Dice) -> Self {
        let mut own = dice.fork("world");
        let nodes = options.nodes.unwrap_or_else(|| *own.pick(&[1, 3, 3, 3, 3, 5]));
        let home = tempfile::tempdir().expect("a temporary directory");
        let net = Net::new(dice.fork("network"), FINE, options.trace.clone());
        let hosts: Vec<Host> = (0..nodes)
            .map(|place| {
                net.name(&address(place), place);
                let drift_ppm = i64::try_from(own.below(2_000)).expect("small") - 1_000;
                Host::new(place, home.path(), dice.fork(&format!("host {place}")), drift_ppm)
            })
            .collect();
        let root_key = server::embed::root_key(SECRET);
        let clients = Clients::new(net.clone(), nodes, 6, &root_key, dice.fork("clients"), options.trace.clone());
        Self {
            now_ns: 0,
            ticks: 0,
            net,
            hosts,
            clients,
            dice: own,
            trace: options.trace.clone(),
            leaders: Leaders::default(),
            states: States::default(),
            quotas: Quotas::default(),
            ends: BTreeMap::new(),
            faults: BTreeMap::new(),
            generations: 0,
            has_lost_disk: false,
            may_end: vec![false; nodes],
            rotten: None,
            removed: None,
            _home: home,
        }
    }

    fn run(mut self, options: &Options) -> Result<Report, Violation> {
        let done = self.play(options);
        for host in &mut self.hosts {
            host.end(&self.net, None);
        }
        done?;
        Ok(Report {
            nodes: self.hosts.len(),
            simulated_ms: self.now_ns / MS_NS,
            operations: self.clients.counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect(),
            faults: self.faults,
            generations: self.generations,
            digest: self.trace.digest(),
        })
    }

    fn play(&mut self, options: &Options) -> Result<(), Violation> {
        let nodes = self.hosts.len();
        for place in 0..nodes {
            self.hosts[place].format(place == 0);
            self.hosts[place].start(&self.net, nodes);
        }
        self.await_all_serving("the cluster to form")?;
        for _ in 0..3 {
            self.make_tenant()?;
        }
        let until = self.now_ns + u64::try_from(options.duration.as_nanos()).expect("not for centuries");
        let mut nemesis = Nemesis::new(self.dice.fork("nemesis"), self.now_ns, until);
        while self.now_ns < until {
            if let Some(fault) = nemesis.next(self.now_ns) {
                self.begin(fault, &mut nemesis.dice);
            }
            self.tick(true)?;
        }
        self.end_faults();
        self.await_all_serving("the cluster to serve again")?;
        while !self.clients.is_idle() {
            self.tick(false)?;
        }
        self.check_contents()?;
        self.clients
            .history
            .check()
            .map_err(|fault| Violation { invariant: Invariant::Linearizable, detail: fault.to_string() })
    }

    /// Lets a tick pass for all.
    fn tick(&mut self, clients_ask: bool) -> Result<(), Violation> {
        self.now_ns += TICK_NS;
        self.ticks += 1;
        self.net.set_now(self.now_ns);
        while let Some(entry) = self.ends.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let end = entry.remove();
            self.end(end);
        }
        let unix_ms = EPOCH_MS + self.now_ns / MS_NS;
        for host in &mut self.hosts {
            host.tick(&self.net, TICK_NS, unix_ms);
        }
        self.clients.step(self.now_ns, clients_ask);
        for place in 0..self.hosts.len() {
            self.mind_end(place)?;
        }
        if let Some(finding) = self.clients.findings.first() {
            return Err(Violation { invariant: Invariant::Answers, detail: finding.clone() });
        }
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Violation> {
        for host in &self.hosts {
            let Some(app) = host.app() else { continue };
            let (values, cache) = app.standing();
            for standing in std::iter::once(values).chain(cache) {
                self.leaders.see(host.place, standing)?;
                self.states.see(host.place, standing)?;
                self.generations = self.generations.max(standing.generation);
            }
        }
        self.look_at_quotas()
    }

    fn look_at_quotas(&mut self) -> Result<(), Violation> {
        for (index, tenant) in self.clients.tenants.iter().enumerate() {
            let Some(quota) = tenant.quota.filter(|_| tenant.deletion_called_ns.is_none()) else { continue };
            // A change may come and go between two looks.
            self.quotas.begin(index, tenant.quota_epoch);
            let (mut of_values, mut of_cache) = (Vec::new(), Vec::new());
            for host in &self.hosts {
                let Some(app) = host.app() else { continue };
                let (in_values, in_cache) = app.standing();
                let Some(usages) = app.usages(&tenant.key) else { continue };
                let shown = |Usage { generation, term, index, bytes }, standing: Option<Standing>| {
                    let leads = standing.is_some_and(|it| self.leaders.is_newest(it) && it.term == term);
                    (host.place, quotas::Shown { generation, index, usage_bytes: bytes, leads })
                };
                of_values.push(shown(usages.0, Some(in_values)));
                of_cache.extend(usages.1.map(|usage| shown(usage, in_cache)));
            }
            self.quotas.see(index, Store::Values, quota.0, &of_values)?;
            self.quotas.see(index, Store::Cache, quota.1, &of_cache)?;
        }
        Ok(())
    }

    /// What is to be done about a process that has ended by itself.
    fn mind_end(&mut self, place: Place) -> Result<(), Violation> {
        let Some(reason) = self.hosts[place].ended() else { return Ok(()) };
        self.trace.note(self.now_ns, &format!("node {place} has ended: {}", redacted(&reason)));
        // A machine that dies in its node's first moments comes back with the marker of its first start used up and an empty
        // log, which is refused as a lost one (`docs/bugs.md`).
        let is_rotten = self.rotten == Some(place) || (self.hosts[place].was_wiped() && reason.contains(EMPTY_LOG));
        // A store that is there is opened on a full disk; a new one needs room.
        let lacks_room = reason.contains(NO_ROOM) && !self.hosts[place].has_store();
        let is_removed = self.removed == Some(place) && reason.contains(REMOVED);
        let may_end = reason.is_empty() || self.may_end[place] || is_rotten || is_removed || lacks_room;
        holds(may_end, Invariant::NoPanic, || format!("node {place} has ended by itself: {reason}"))?;
        self.hosts[place].end(&self.net, None);
        if is_rotten || is_removed {
            // What the documentation says: an empty directory, and it joins as another.
            self.rotten = self.rotten.filter(|_| !is_rotten);
            self.hosts[place].wipe();
        }
        self.may_end[place] = false;
        self.later(100, 1_500, End::Start(place));
        Ok(())
    }

    fn later(&mut self, least_ms: u64, most_ms: u64, end: End) {
        let at = self.now_ns + self.dice.between(least_ms, most_ms) * MS_NS;
        self.ends.insert((at, self.ends.len() as u64 + self.ticks), end);
    }

    fn begin(&mut self, fault: Fault, dice: &mut Dice) {
        let nodes = self.hosts.len();
        let place = usize::try_from(dice.below(nodes as u64)).expect("a place");
        let others: Vec<Place> = (0..nodes).filter(|other| *other != place).collect();
        let is_up = self.hosts[place].is_up();
        let all_up = self.hosts.iter().all(|host| host.is_up() && host.has_served() && host.ended().is_none());
        let may_lose = nodes > 1 && all_up && !self.has_lost_disk && self.may_end.iter().all(|may| !may);
        match fault {
            Fault::Crash if is_up => {
                self.hosts[place].end(&self.net, Some(dice.next()));
                self.later(20, 2_000, End::Start(place));
            }
            Fault::CrashWhileWriting if is_up => self.hosts[place].crash_after(dice.below(60), dice.next()),
            Fault::Kill if is_up => {
                self.hosts[place].end(&self.net, None);
                self.later(20, 2_000, End::Start(place));
            }
            Fault::CrashAll => {
                for place in 0..nodes {
                    if self.hosts[place].is_up() {
                        self.hosts[place].end(&self.net, Some(dice.next()));
                        self.later(20, 1_000, End::Start(place));
                    }
                }
            }
            Fault::Pause if is_up && !self.hosts[place].is_paused => {
                self.hosts[place].is_paused = true;
                self.later(50, 5_000, End::Wake(place));
            }
            Fault::Isolate if nodes > 1 => {
                for other in others {
                    self.net.cut(place, other);
                    self.net.cut(other, place);
                }
                self.later(100, 4_000, End::Heal);
            }
            Fault::CutOneWay if nodes > 1 => {
                self.net.cut(place, *dice.pick(&others));
                self.later(100, 4_000, End::Heal);
            }
            Fault::SlowNetwork => {
                self.net.set_weather(Weather { delay_us: (1_000, 1_000 * dice.between(5, 120)), ..FINE });
                self.later(200, 3_000, End::Calm);
            }
            Fault::LossyNetwork => {
                let (loss_per_mille, doubled_per_mille) = (dice.between(10, 150), dice.between(0, 300));
                self.net.set_weather(Weather { delay_us: (50, 5_000), loss_per_mille, doubled_per_mille });
                self.later(200, 3_000, End::Calm);
            }
            Fault::StallDisk if is_up => {
                self.hosts[place].is_disk_stalled = true;
                self.later(100, 4_000, End::RunDisk(place));
            }
            Fault::FillDisk => {
                self.hosts[place].limit_disk(Some(dice.below(2 << 20)));
                self.later(200, 3_000, End::EmptyDisk(place));
            }
            Fault::FailDisk if is_up => {
                self.may_end[place] = true;
                self.hosts[place].fail_after(dice.below(40));
            }
            Fault::RotDisk if may_lose => {
                self.hosts[place].end(&self.net, Some(dice.next()));
                if let Some(path) = self.hosts[place].rot() {
                    self.trace.note(self.now_ns, &format!("rot in {}", path.file_name().unwrap_or_default().display()));
                    self.has_lost_disk = true;
                    self.rotten = Some(place);
                }
                self.later(20, 500, End::Start(place));
            }
            Fault::LoseDisk if may_lose => {
                self.has_lost_disk = true;
                self.hosts[place].end(&self.net, None);
                self.hosts[place].wipe();
                self.later(20, 500, End::Start(place));
            }
            Fault::RemoveNode if nodes > 2 && may_lose && self.removed.is_none() => {
                // No disk may be lost then: of three nodes two are left.
                self.has_lost_disk = true;
                self.removed = Some(place);
                let (now, node) = (self.now_ns, json!({ "node": format!("{:016x}", self.hosts[place].node()) }));
                let asked = usize::try_from(dice.below(nodes as u64)).expect("a place");
                self.clients.administer(now, asked, (Method::POST, path::CLUSTER_REMOVE, Some(node)));
            }
            Fault::SetWallClock => {
                let offset = i64::try_from(dice.below(7_200_000)).expect("small") - 3_600_000;
                self.hosts[place].set_wall_clock(offset);
                self.later(500, 5_000, End::SetClock(place));
            }
            Fault::Restart if is_up => self.hosts[place].stop(),
            Fault::Transfer => {
                let now = self.now_ns;
                self.clients.administer(now, place, (Method::POST, path::CLUSTER_TRANSFER, Some(json!({}))));
            }
            Fault::ChangeLimits => {
                let scale = self.clients.scale;
                let mut quota = || dice.between(0, QUOTA_BYTES_MAX) * scale;
                let (disk, memory) = (quota(), quota());
                let tenant = usize::try_from(dice.below(self.clients.tenants.len() as u64)).expect("an index");
                self.clients.change_limits(self.now_ns, tenant, disk, memory);
            }
            Fault::DeleteTenant => self.clients.delete_tenant(self.now_ns, 0),
            _ => return,
        }
        self.trace.note(self.now_ns, &format!("fault {fault:?} at {place}"));
        *self.faults.entry(format!("{fault:?}")).or_default() += 1;
    }

    fn end(&mut self, end: End) {
        match end {
            End::Start(place) => {
                let nodes = self.hosts.len();
                if !self.hosts[place].is_up() {
                    self.hosts[place].start(&self.net, nodes);
                }
            }
            End::Wake(place) => self.hosts[place].is_paused = false,
            End::Heal => self.net.heal(),
            End::Calm => self.net.set_weather(FINE),
            End::RunDisk(place) => self.hosts[place].is_disk_stalled = false,
            End::EmptyDisk(place) => self.hosts[place].limit_disk(None),
            End::SetClock(place) => self.hosts[place].set_wall_clock(0),
        }
        self.trace.note(self.now_ns, &format!("end {end:?}"));
    }

    fn end_faults(&mut self) {
        // A node that dies between two looks at what it holds shows the Cache of two generations.
        self.hosts.iter().for_each(Host::disarm);
        for end in std::mem::take(&mut self.ends).into_values() {
            self.end(end);
        }
        for place in 0..self.hosts.len() {
            for end in [End::Wake(place), End::RunDisk(place), End::EmptyDisk(place), End::Start(place)] {
                self.end(end);
            }
        }
        self.end(End::Heal);
        self.end(End::Calm);
    }
}

/// A reason without the temporary directory in it, which is another one in each run.
fn redacted(reason: &str) -> String {
    reason.split_whitespace().filter(|word| !word.contains('/')).collect::<Vec<_>>().join(" ")
}
