//! The blocking threads of one process of a node, which take turns.
//!
//! They are real threads, since what runs on them blocks, but never more than one of them runs, and none beside the
//! node's runtime: whoever waits for a [`Signal`] gives the turn back, and the host hands it out again, once in a tick, in
//! the order in which the threads were made. So a thread takes at least a tick to answer, as a disk does, and with a
//! process's threads stopped its disk stands still.

use std::{
    any::Any,
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use consensus::env::{Body, Env, Join, Signal};

use crate::dice::Dice;

/// A thread that keeps its turn for so long, in real time, waits for a lock that another one holds which has given its turn
/// back: two checkpoints of one engine, say. The others go on, and it does when it gets the lock, whenever that is: such a run
/// may differ from its next.
const BLOCKED_AFTER: Duration = Duration::from_millis(500);

/// What a thread that was killed unwinds with.
struct Killed;

/// A process's time: what its clocks show.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// The clock that never jumps, in nanoseconds.
    pub(crate) monotonic_ns: AtomicU64,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub(crate) unix_ms: AtomicU64,
}

/// The world of one process: its threads, clocks and randomness.
#[derive(Clone, Debug)]
pub(crate) struct Threads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clocks: Arc<Clocks>,
    dice: Mutex<Dice>,
    slots: Mutex<Vec<Arc<Slot>>>,
    panicked: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    turn: Turn,
    waits_for: Option<Arc<Flag>>,
    until_ns: Option<u64>,
    killed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Waiting,
    Running,
    Ended,
}

thread_local! {
    static OWN: RefCell<Option<(Threads, Arc<Slot>)>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    pub(crate) fn new(clocks: Arc<Clocks>, dice: Dice) -> Self {
        let shared =
            Shared { clocks, dice: Mutex::new(dice), slots: Mutex::default(), panicked: AtomicBool::new(false) };
        Self(Arc::new(shared))
    }

    fn now_ns(&self) -> u64 {
        self.0.clocks.monotonic_ns.load(Ordering::Relaxed)
    }

    /// Gives each thread that has something to do one turn. Answers whether any had.
    pub(crate) fn run(&self) -> bool {
        let slots = lock(&self.0.slots).clone();
        let now = self.now_ns();
        let mut ran = false;
        for slot in &slots {
            if slot.is_ready(now) {
                slot.give_turn();
                ran = true;
            }
        }
        lock(&self.0.slots).retain(|slot| lock(&slot.state).turn != Turn::Ended);
        ran
    }

    /// Ends all threads where they are.
    pub(crate) fn kill(&self) {
        let slots = std::mem::take(&mut *lock(&self.0.slots));
        for slot in &slots {
            lock(&slot.state).killed = true;
        }
        // One may hold what another one waits for.
        while slots.iter().any(|slot| lock(&slot.state).turn != Turn::Ended) {
            slots.iter().for_each(|slot| slot.give_turn());
        }
    }

    /// Whether a thread has panicked.
    pub(crate) fn has_panicked(&self) -> bool {
        self.0.panicked.load(Ordering::Relaxed)
    }

    fn start(&self, name: &str, body: Body) -> io::Result<Arc<Slot>> {
        let state = State { turn: Turn::Waiting, waits_for: None, until_ns: None, killed: false };
        let slot = Arc::new(Slot { name: name.to_owned(), state: Mutex::new(state), changed: Condvar::new() });
        let (threads, own) = (self.clone(), slot.clone());
        thread::Builder::new().name(format!("sim-{name}")).spawn(move || {
            OWN.set(Some((threads.clone(), own.clone())));
            own.await_turn();
            let ended = catch_unwind(AssertUnwindSafe(|| {
                if !lock(&own.state).killed {
                    body();
                }
            }));
            if ended.is_err_and(|reason: Box<dyn Any + Send>| !reason.is::<Killed>()) {
                threads.0.panicked.store(true, Ordering::Relaxed);
            }
            OWN.set(None);
            lock(&own.state).turn = Turn::Ended;
            own.changed.notify_all();
        })?;
        lock(&self.0.slots).push(slot.clone());
        Ok(slot)
    }
}

impl Slot {
    fn is_ready(&self, now_ns: u64) -> bool {
        let state = lock(&self.state);
        let raised = state.waits_for.as_ref().is_none_or(|flag| *lock(&flag.0));
        state.turn == Turn::Waiting && (state.killed || raised || state.until_ns.is_some_and(|until| until <= now_ns))
    }

    /// Lets the thread run until it waits again or ends.
    fn give_turn(&self) {
        let mut state = lock(&self.state);
        if state.turn == Turn::Ended {
            return;
        }
        state.turn = Turn::Running;
        self.changed.notify_all();
        let running = |state: &mut State| state.turn == Turn::Running;
        let waited = self.changed.wait_timeout_while(state, BLOCKED_AFTER, running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn await_turn(&self) {
        let waiting = |state: &mut State| state.turn != Turn::Running;
        drop(self.changed.wait_while(lock(&self.state), waiting).unwrap_or_else(PoisonError::into_inner));
    }
}

/// A signal in the simulator.
#[derive(Debug)]
struct Flag(Mutex<bool>);

/// [`Flag`], as the code under test holds it.
#[derive(Debug)]
struct SimSignal {
    flag: Arc<Flag>,
    threads: Threads,
}

impl Signal for SimSignal {
    fn raise(&self) {
        *lock(&self.flag.0) = true;
    }

    fn wait(&self, timeout: Option<Duration>) -> bool {
        if std::mem::take(&mut *lock(&self.flag.0)) {
            return true;
        }
        let Some((threads, slot)) = OWN.with_borrow(Clone::clone) else {
            // The runtime's own thread, which only an orderly stop blocks: the others go on meanwhile.
            while !std::mem::take(&mut *lock(&self.flag.0)) {
                assert!(self.threads.run(), "the runtime waits for a signal that nobody raises");
            }
            return true;
        };
        if thread::panicking() {
            return true;
        }
        {
            let mut state = lock(&slot.state);
            state.waits_for = Some(self.flag.clone());
            state.until_ns = timeout
                .map(|timeout| threads.now_ns().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
            state.turn = Turn::Waiting;
            slot.changed.notify_all();
        }
        slot.await_turn();
        if lock(&slot.state).killed {
            resume_unwind(Box::new(Killed));
        }
        std::mem::take(&mut *lock(&self.flag.0))
    }
}

struct Running {
    threads: Threads,
    slot: Arc<Slot>,
}

impl Join for Running {
    fn join(self: Box<Self>) {
        while lock(&self.slot.state).turn != Turn::Ended {
            assert!(self.threads.run(), "nobody raises what thread {:?} waits for", self.slot.name);
        }
    }
}

impl Env for Threads {
    fn spawn(&self, name: &str, body: Body) -> io::Result<Box<dyn Join>> {
        let slot = self.start(name, body)?;
        Ok(Box::new(Running { threads: self.clone(), slot }))
    }

    fn run_blocking(&self, body: Body) {
        drop(self.start("blocking", body).expect("a thread can be started"));
    }

    fn run_in_background(&self, body: Body) {
        self.run_blocking(body);
    }

    fn signal(&self) -> Arc<dyn Signal> {
        Arc::new(SimSignal { flag: Arc::new(Flag(Mutex::new(false))), threads: self.clone() })
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.now_ns())
    }

    fn unix_ms(&self) -> u64 {
        self.0.clocks.unix_ms.load(Ordering::Relaxed)
    }

    fn random_u64(&self) -> u64 {
        lock(&self.0.dice).next()
    }
}
