//! Time, threads and randomness, as this crate sees them. All of it comes through [`Env`], handed in by whoever
//! builds a group, so that a simulator can take the place of [`System`].

use std::{
    fmt, io,
    pin::pin,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;

/// What a thread runs.
pub type Body = Box<dyn FnOnce() + Send>;

/// The world around a group.
pub trait Env: Send + Sync + fmt::Debug + 'static {
    /// Starts a thread that blocks at will. Fails when the operating system has no thread to give.
    fn spawn(&self, name: &str, body: Body) -> io::Result<Box<dyn Join>>;
    /// Runs what blocks beside the tasks of the current runtime, on one of its threads for that.
    fn run_blocking(&self, body: Body);
    /// As [`Env::run_blocking`], for what is long and can wait: it stands back behind whatever else needs a processor.
    fn run_in_background(&self, body: Body);
    /// A signal that one thread waits for.
    fn signal(&self) -> Arc<dyn Signal>;
    /// A clock that never jumps: the time since a fixed moment of this process.
    fn monotonic(&self) -> Duration;
    /// The wall clock, in milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// A random number that nobody outside can guess.
    fn random_u64(&self) -> u64;
}

/// Runs what blocks where it blocks no task, and answers what it answers. It begins at once, and goes on when nobody waits
/// any more.
///
/// # Panics
/// When `work` does.
pub fn blocking<T, F>(env: &dyn Env, work: F) -> impl Future<Output = T> + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (body, answer) = answered(work);
    env.run_blocking(body);
    async move { answer.await.expect(OUTLIVES) }
}

/// As [`blocking`], but [in the background](Env::run_in_background).
///
/// # Panics
/// When `work` does.
pub(crate) async fn background<T: Send + 'static>(env: &dyn Env, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (body, answer) = answered(work);
    env.run_in_background(body);
    answer.await.expect(OUTLIVES)
}

const OUTLIVES: &str = "work that blocks does not panic, and its runtime outlives who waits for it";

fn answered<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Body, oneshot::Receiver<T>) {
    let (sender, answer) = oneshot::channel();
    let body = move || {
        // Nobody waits any more.
        let _ = sender.send(work());
    };
    (Box::new(body), answer)
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

    fn run_in_background(&self, body: Body) {
        // A thread that has stood back may not come forward again: it is none of the runtime's. But the runtime waits for
        // it as for its own.
        self.run_blocking(Box::new(move || {
            let (sender, receiver) = mpsc::channel::<Body>();
            let stands_back = move || {
                stand_back();
                receiver.iter().for_each(|body| body());
            };
            match thread::Builder::new().name("background".to_owned()).spawn(stands_back) {
                Ok(thread) => {
                    sender.send(body).expect("it takes one");
                    drop(sender);
                    Box::new(thread).join();
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread for what goes on in the background: it does not stand back");
                    body();
                }
            }
        }));
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

/// How far a thread stands back, as `nice` counts: of a busy processor it gets about a tenth of what another does. With less,
/// the checkpoints of a node that is busy for long would not end before memory is full of what they have to write.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 10;

/// On Linux a thread has a priority of its own.
#[cfg(target_os = "linux")]
fn stand_back() {
    if let Err(error) = rustix::process::nice(BACKGROUND_NICE) {
        tracing::warn!(%error, "what goes on in the background cannot stand back");
    }
}

#[cfg(not(target_os = "linux"))]
fn stand_back() {}

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nice() -> i32 {
        rustix::process::nice(0).unwrap()
    }

    #[tokio::test]
    async fn what_goes_on_in_the_background_stands_back_and_nothing_else_does() {
        let before = nice();
        let aside = background(&System::new(), nice).await;
        assert_eq!(aside, (before + BACKGROUND_NICE).min(19), "as far as it goes");
        assert_eq!(blocking(&System::new(), nice).await, before);
        assert_eq!(nice(), before);
    }
}
