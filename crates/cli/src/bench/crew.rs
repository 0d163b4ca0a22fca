//! The threads that make the load. Each has a runtime of its own with its share of the connections, so that one request
//! never crosses a thread; the thread that started them only looks on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::target::{Stream, Target};
use crate::failure::Failure;

/// A connection that is open, and to which of the targets.
pub(crate) struct Seat {
    /// Its number among all connections.
    pub(crate) number: usize,
    pub(crate) target: usize,
    pub(crate) stream: Box<dyn Stream>,
}

/// Something that runs on a thread until it is done.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Makes a thread's jobs out of its seats, on that thread.
pub(crate) type Shift = Box<dyn FnOnce(Vec<Seat>) -> io::Result<Vec<Job>> + Send>;

/// Threads whose connections are open, and that wait for their work.
pub(crate) struct Crew(Vec<Member>);

struct Member {
    begin: oneshot::Sender<Shift>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Crew {
    /// Opens `connections` to the targets in turn, on `threads` threads. All are open before anything is measured, so
    /// that no latency holds the opening of one.
    ///
    /// # Errors
    /// When one of the connections does not come about.
    pub(crate) async fn assemble(targets: &[Arc<Target>], connections: usize, threads: usize) -> Result<Self, Failure> {
        let mut members = Vec::new();
        let mut readies = Vec::new();
        for thread in 0..threads {
            let places: Vec<_> = (thread..connections)
                .step_by(threads)
                .map(|number| (number, number % targets.len(), targets[number % targets.len()].clone()))
                .collect();
            let (ready, is_ready) = oneshot::channel();
            let (begin, begun) = oneshot::channel();
            let (done, is_done) = oneshot::channel();
            thread::Builder::new()
                .name(format!("load-{thread}"))
                .spawn(move || {
                    let ended = serve(places, ready, begun);
                    // Nobody listens when the run was given up.
                    let _ = done.send(ended);
                })
                .map_err(|error| cannot("start a thread", &error))?;
            members.push(Member { begin, done: is_done });
            readies.push(is_ready);
        }
        for ready in readies {
            ready.await.map_err(|_| cannot("start a thread", &"it ended early"))??;
        }
        Ok(Self(members))
    }

    /// Gives each thread its jobs; done when all of them are.
    ///
    /// # Errors
    /// When a thread cannot make its jobs.
    pub(crate) fn begin(self, shift: impl Fn(usize) -> Shift) -> impl Future<Output = Result<(), Failure>> {
        let waits: Vec<_> = self
            .0
            .into_iter()
            .enumerate()
            .map(|(thread, member)| {
                // A thread that ended early says so below.
                let _ = member.begin.send(shift(thread));
                member.done
            })
            .collect();
        async move {
            for done in waits {
                let ended = done.await.unwrap_or_else(|_| Err(io::Error::other("a thread ended early")));
                ended.map_err(|error| cannot("go on", &error))?;
            }
            Ok(())
        }
    }
}

fn cannot(what: &str, error: &impl std::fmt::Display) -> Failure {
    Failure::usage(
        format!("cannot {what}: {error}"),
        "use fewer --connections and --threads, or raise the limits of this process",
    )
}

type Place = (usize, usize, Arc<Target>);

/// A thread's whole life. It ends early when nobody gives it work.
fn serve(
    places: Vec<Place>,
    ready: oneshot::Sender<Result<(), Failure>>,
    begun: oneshot::Receiver<Shift>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let seats = match open(places).await {
            Ok(seats) => seats,
            Err(failure) => {
                let _ = ready.send(Err(failure));
                return Ok(());
            }
        };
        if ready.send(Ok(())).is_err() {
            return Ok(());
        }
        let Ok(shift) = begun.await else { return Ok(()) };
        let mut jobs: JoinSet<()> = shift(seats)?.into_iter().collect();
        while let Some(ended) = jobs.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(())
    })
}

/// At most so many connections are opened at once on one thread: a server's queue of new ones is short.
const OPENING_MAX: usize = 64;

async fn open(places: Vec<Place>) -> Result<Vec<Seat>, Failure> {
    let mut places = places.into_iter();
    let mut opening = JoinSet::new();
    let mut seats = Vec::new();
    loop {
        while opening.len() < OPENING_MAX
            && let Some((number, target, node)) = places.next()
        {
            opening.spawn(async move {
                match node.connect().await {
                    Ok(stream) => Ok(Seat { number, target, stream }),
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                        Err(cannot(&format!("open connection {}", number + 1), &error))
                    }
                    Err(error) => Err(node.unreachable(&error)),
                }
            });
        }
        match opening.join_next().await {
            Some(seat) => seats.push(seat.expect("opening a connection does not panic")?),
            None => return Ok(seats),
        }
    }
}
