//! One machine with one node: its disk, its clocks, and the process that may run on it.
//!
//! A process has a runtime of its own with virtual time. The host runs it for as long as its slice of a tick lasts; what
//! becomes ready meanwhile runs at once, and time jumps from timer to timer. A paused process gets no slices, and finds
//! its clock ahead when it wakes. A clock that runs fast gets a little more time in each.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use server::embed::{self, Embedded, World};
use storage::fs::{Disk as _, faulty::FaultyDisk};
use tokio::{runtime::Runtime, sync::oneshot};
use uuid::Uuid;

use crate::{
    dice::Dice,
    disk::{Life, rot},
    network::{Net, Place, SimNetwork},
    threads::{Clocks, Threads},
};

const MS_NS: u64 = 1_000_000;
/// How often a node that has started is looked at, whether it serves.
const LOOK: Duration = Duration::from_millis(5);
/// The instance secret of all nodes.
pub(crate) const SECRET: &str = "a simulated cluster's secret, of no use anywhere else";
/// Small, so that checkpoints, snapshots and the turn of log segments all happen within a run.
const SETTINGS: &str = "log_level = \"off\"\ncheckpoint_bytes = 65536\ncheckpoint_interval_ms = 1500\n\
    log_segment_bytes = 1048576\nlog_tail_bytes = 16384\nmax_value_size = 16384\nbody_bytes_in_flight_max = 4194304\n\
    request_timeout_ms = 3000\n";

/// What became of a process.
#[derive(Default)]
struct Fate {
    app: Option<Arc<Embedded>>,
    /// The node has ended by itself, with this reason; empty after an orderly stop.
    ended: Option<String>,
    /// What it last missed to serve.
    missing: String,
}

struct Process {
    runtime: Runtime,
    threads: Threads,
    life: Life,
    fate: Arc<Mutex<Fate>>,
    stop: Option<oneshot::Sender<()>>,
    has_served: Arc<AtomicBool>,
}

/// A machine.
pub(crate) struct Host {
    pub(crate) place: Place,
    disk: FaultyDisk,
    home: PathBuf,
    /// How often its disk was lost: each time it is another node.
    wipes: u64,
    clocks: Arc<Clocks>,
    /// How far its clock has come, and what it has been given of that.
    local_ns: u64,
    given_ms: u64,
    drift_ppm: i64,
    wall_offset_ms: i64,
    dice: Dice,
    starts: u64,
    process: Option<Process>,
    pub(crate) is_paused: bool,
    pub(crate) is_disk_stalled: bool,
}

pub(crate) fn address(place: Place) -> String {
    format!("node{place}:8082")
}

impl Host {
    pub(crate) fn new(place: Place, home: &Path, dice: Dice, drift_ppm: i64) -> Self {
        Self {
            place,
            disk: FaultyDisk::new(),
            home: home.to_owned(),
            wipes: 0,
            clocks: Arc::default(),
            // Clocks of different machines begin anywhere.
            local_ns: (place as u64 + 1) * 1_000_000 * MS_NS,
            given_ms: (place as u64 + 1) * 1_000_000,
            drift_ppm,
            wall_offset_ms: 0,
            dice,
            starts: 0,
            process: None,
            is_paused: false,
            is_disk_stalled: false,
        }
    }

    /// The node's id: another one after each loss of the disk.
    pub(crate) fn node(&self) -> u64 {
        1 + self.place as u64 + 100 * self.wipes
    }

    fn data_dir(&self) -> PathBuf {
        self.home.join(format!("{}-{}", self.place, self.wipes))
    }

    /// Makes the data directory of the node that the host will run.
    pub(crate) fn format(&self, founds: bool) {
        embed::create_data_dir(&self.data_dir(), Uuid::from_u128(7), self.node(), founds).expect("an empty directory");
        // What the node writes past its disk: snapshots on their way in.
        std::fs::create_dir_all(self.data_dir().join("store")).expect("an empty directory");
        self.disk.create_dir(&self.data_dir()).expect("an empty disk");
    }

    /// Starts the process.
    pub(crate) fn start(&mut self, net: &Net, hosts: usize) {
        assert!(self.process.is_none());
        self.starts += 1;
        net.plug_in(self.place);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime needs nothing");
        let threads = Threads::new(self.clocks.clone(), self.dice.fork(&format!("process {}", self.starts)));
        let life = Life::new(&self.disk);
        let fate = Arc::<Mutex<Fate>>::default();
        let has_served = Arc::<AtomicBool>::default();
        let (stop, stopped) = oneshot::channel();
        let join: Vec<String> = (0..hosts).map(|place| format!("{:?}", address(place))).collect();
        let settings = format!(
            "data_dir = {:?}\npeer_address = \"127.0.0.1:1\"\njoin = [{}]\n{SETTINGS}",
            self.data_dir(),
            join.join(", ")
        );
        let world = World {
            disk: Arc::new(life.clone()),
            env: Arc::new(threads.clone()),
            network: Box::new(SimNetwork { net: net.clone(), place: self.place }),
            address: address(self.place),
        };
        let (net, place, own_fate, served) = (net.clone(), self.place, fate.clone(), has_served.clone());
        runtime.spawn(async move {
            let ended = match Embedded::start(&settings, SECRET, world).await {
                Ok(app) => run(app, &net, place, &own_fate, &served, stopped).await,
                Err(error) => format!("{error:#}"),
            };
            own_fate.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
        });
        self.process = Some(Process { runtime, threads, life, fate, stop: Some(stop), has_served });
    }

    /// Gives the process its slice of a tick of so many nanoseconds.
    pub(crate) fn tick(&mut self, net: &Net, tick_ns: u64, unix_ms: u64) {
        let drift = i64::try_from(tick_ns).expect("short") * self.drift_ppm / 1_000_000;
        self.local_ns = self.local_ns.saturating_add_signed(i64::try_from(tick_ns).expect("short") + drift);
        let Some(process) = self.process.as_ref().filter(|_| !self.is_paused) else {
            if self.process.is_none() {
                net.refuse(self.place);
            }
            return;
        };
        let due_ms = self.local_ns / MS_NS - self.given_ms;
        if due_ms == 0 {
            return;
        }
        self.given_ms += due_ms;
        self.clocks.unix_ms.store(unix_ms.saturating_add_signed(self.wall_offset_ms), Ordering::Relaxed);
        self.clocks.monotonic_ns.store(self.given_ms * MS_NS, Ordering::Relaxed);
        if !self.is_disk_stalled {
            process.threads.run();
        }
        let (place, missed_ms) = (self.place, due_ms.saturating_sub(2));
        process.runtime.block_on(async {
            if missed_ms > 0 {
                // It did not run meanwhile: all timers are due at once.
                tokio::time::advance(Duration::from_millis(missed_ms)).await;
            }
            net.receive(place);
            tokio::time::sleep(Duration::from_millis(due_ms - missed_ms)).await;
        });
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process has served since its start.
    pub(crate) fn has_served(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.has_served.load(Ordering::Relaxed))
    }

    /// What the process last missed to serve.
    pub(crate) fn missing(&self) -> String {
        let process = self.process.as_ref();
        process
            .map(|process| process.fate.lock().unwrap_or_else(PoisonError::into_inner).missing.clone())
            .unwrap_or_default()
    }

    /// The node, while its process runs and has started.
    pub(crate) fn app(&self) -> Option<Arc<Embedded>> {
        let fate = self.process.as_ref()?.fate.lock().unwrap_or_else(PoisonError::into_inner);
        fate.app.clone()
    }

    /// Why the process has ended by itself, when it has: empty after an orderly stop.
    pub(crate) fn ended(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        if process.life.is_dead() {
            return Some(String::new());
        }
        if process.threads.has_panicked() {
            return Some("a thread has panicked".to_owned());
        }
        process.fate.lock().unwrap_or_else(PoisonError::into_inner).ended.clone()
    }

    /// Asks the process to end in order.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.process.as_mut().and_then(|process| process.stop.take()) {
            let _ = stop.send(());
        }
    }

    /// Ends the process where it is: by itself, or with its machine and all that was not synced.
    pub(crate) fn end(&mut self, net: &Net, torn: Option<u64>) {
        let Some(process) = self.process.take() else { return };
        match torn {
            Some(seed) => process.life.crash(seed),
            None => process.life.kill(),
        }
        net.unplug(self.place);
        let Process { runtime, threads, fate, .. } = process;
        let app = fate.lock().unwrap_or_else(PoisonError::into_inner).app.take();
        {
            let _inside = runtime.enter();
            drop(app);
        }
        // Tasks first: what they held tells the threads to end, which then are ended anyway.
        drop(runtime);
        threads.kill();
        (self.is_paused, self.is_disk_stalled) = (false, false);
    }

    /// Lets machine and process die at an operation of the disk to come.
    pub(crate) fn crash_after(&self, operations: u64, torn: u64) {
        if let Some(process) = &self.process {
            process.life.crash_after(operations, torn);
        }
    }

    /// Lets an operation of the disk to come fail.
    pub(crate) fn fail_after(&self, operations: u64) {
        if let Some(process) = &self.process {
            process.life.fail_after(operations);
        }
    }

    /// Takes back what is to come to the disk.
    pub(crate) fn disarm(&self) {
        if let Some(process) = &self.process {
            process.life.disarm();
        }
    }

    /// Leaves the disk as much room as it uses and some more; all the room there is for none.
    pub(crate) fn limit_disk(&self, room_bytes: Option<u64>) {
        self.disk.set_capacity(room_bytes.map(|room| self.disk.used_bytes() + room));
    }

    /// Flips a bit of what the node, which is down, has stored.
    pub(crate) fn rot(&mut self) -> Option<PathBuf> {
        let dirs = [self.data_dir().join("log"), self.data_dir().join("store")];
        rot(&self.disk, &dirs, &mut self.dice).expect("the disk works")
    }

    /// Takes the disk out and puts an empty one in: the host then runs another node.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none());
        self.wipes += 1;
        self.disk = FaultyDisk::new();
        self.format(false);
    }

    /// Whether its disk was replaced.
    pub(crate) fn was_wiped(&self) -> bool {
        self.wipes > 0
    }

    /// Whether the disk has the store of the node that the host runs.
    pub(crate) fn has_store(&self) -> bool {
        self.disk.list(&self.data_dir().join("store")).is_ok_and(|names| !names.is_empty())
    }

    /// Sets the wall clock this far from the true time.
    pub(crate) fn set_wall_clock(&mut self, offset_ms: i64) {
        self.wall_offset_ms = offset_ms;
    }
}

/// Runs a node until it is told to end or has a fault; why it ended.
async fn run(
    app: Embedded,
    net: &Net,
    place: Place,
    fate: &Mutex<Fate>,
    served: &AtomicBool,
    stopped: oneshot::Receiver<()>,
) -> String {
    let app = Arc::new(app);
    fate.lock().unwrap_or_else(PoisonError::into_inner).app = Some(app.clone());
    net.serve_clients(place, Some(app.clone()));
    let serves = async {
        while let Some(missing) = app.missing().await {
            fate.lock().unwrap_or_else(PoisonError::into_inner).missing = missing;
            tokio::time::sleep(LOOK).await;
        }
        served.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        fault = app.fault() => return fault,
        () = serves => {}
        _ = stopped => {}
    }
    net.serve_clients(place, None);
    fate.lock().unwrap_or_else(PoisonError::into_inner).app = None;
    let mut app = app;
    loop {
        // Requests under way hold it too.
        match Arc::try_unwrap(app) {
            Ok(app) => return app.stop().await.err().map(|error| format!("{error:#}")).unwrap_or_default(),
            Err(held) => app = held,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
