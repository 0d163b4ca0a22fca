//! Time, threads and randomness, as this crate sees them. All of it comes through [`Env`], handed in by whoever
//! builds a group, so that a simulator can take the place of [`System`].

use std::{
    fmt, io,
    pin::pin,
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a thread runs.
pub type Body = Box<dyn FnOnce() + Send>;

/// The world around a group.
pub trait Env: Send + Sync + fmt::Debug + 'static {
    /// Starts a thread that blocks at will. Fails when the operating system has no thread to give.
    fn spawn(&self, name: &str, body: Body) -> io::Result<Box<dyn Join>>;
    /// Runs what blocks beside the tasks of the current runtime, on one of its threads for that.
    fn run_blocking(&self, body: Body);
    /// A signal that one thread waits for.
    fn signal(&self) -> Arc<dyn Signal>;
    /// A clock that never jumps: the time since a fixed moment of this process.
    fn monotonic(&self) -> Duration;
    /// The wall clock, in milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// A random number that nobody outside can guess.
    fn random_u64(&self) -> u64;
}

/// Runs what blocks where it blocks no task, and answers what it answers; it goes on when nobody waits any more.
///
/// # Panics
/// When `work` does.
pub(crate) async fn blocking<T: Send + 'static>(env: &dyn Env, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    env.run_blocking(Box::new(move || {
        // Nobody waits any more.
        let _ = sender.send(work());
    }));
    receiver.await.expect("work that blocks does not panic, and its runtime outlives who waits for it")
}

/// Blocks the current thread, one that may, until `future` is done. It must need nothing of a runtime.
pub fn block_on<F: Future>(env: &dyn Env, future: F) -> F::Output {
    let signal = env.signal();
    let waker = Waker::from(Arc::new(Raiser(signal.clone())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => drop(signal.wait(None)),
        }
    }
}

struct Raiser(Arc<dyn Signal>);

impl Wake for Raiser {
    fn wake(self: Arc<Self>) {
        self.0.raise();
    }
}

/// A running thread.
pub trait Join: Send {
    /// Blocks until it has ended, by returning or by a panic.
    fn join(self: Box<Self>);
}

/// A flag that one thread waits for and any thread raises. It stays raised until the wait takes it, so that a
/// raise before the wait is not lost.
pub trait Signal: Send + Sync + fmt::Debug {
    /// Raises the flag and wakes the waiting thread.
    fn raise(&self);
    /// Blocks until the flag is raised, and lowers it. False when `timeout` has passed first.
    fn wait(&self, timeout: Option<Duration>) -> bool;
}

/// The real world.
#[derive(Debug)]
pub struct System {
    started: Instant,
}

impl System {
    /// The real world, its monotonic clock starting now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Env for System {
    fn spawn(&self, name: &str, body: Body) -> io::Result<Box<dyn Join>> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Box::new(handle))
    }

    fn run_blocking(&self, body: Body) {
        drop(tokio::task::spawn_blocking(body));
    }

    fn signal(&self) -> Arc<dyn Signal> {
        Arc::new(Flag::default())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "this is what everyone else takes the time from")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random_u64(&self) -> u64 {
        getrandom::u64().expect("the operating system always has randomness once it has started")
    }
}

impl Join for thread::JoinHandle<()> {
    fn join(self: Box<Self>) {
        // A panic has been reported by its own thread's hook; whoever joins only needs to know that it ended.
        let _ = thread::JoinHandle::join(*self);
    }
}

#[derive(Debug, Default)]
struct Flag {
    raised: Mutex<bool>,
    wake: Condvar,
}

impl Signal for Flag {
    fn raise(&self) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        // A wake-up costs a system call: one is enough until the flag has been taken.
        if !std::mem::replace(&mut *raised, true) {
            self.wake.notify_one();
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> bool {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let mut raised = match timeout {
            None => self.wake.wait_while(raised, |raised| !*raised).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.wake.wait_timeout_while(raised, timeout, |raised| !*raised);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        std::mem::take(&mut *raised)
    }
}
