//! Reads of entries that memory no longer holds, on a thread of their own: a cold disk must not hold up the
//! tasks that ask.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{
    record::{self, Record},
    shared::{Frame, PoisonOnPanic, Shared, closed},
};
use crate::{env::Signal, types::Entry};

/// The reads that wait for the disk.
pub(super) struct Reader {
    jobs: Mutex<Jobs>,
    work: Arc<dyn Signal>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    stopped: bool,
}

struct Job {
    frames: Vec<Frame>,
    done: oneshot::Sender<io::Result<Vec<Entry>>>,
}

impl Reader {
    /// No reads yet; `work` wakes the thread.
    pub(super) fn new(work: Arc<dyn Signal>) -> Self {
        Self { jobs: Mutex::default(), work }
    }

    /// Reads `frames` from the disk and checks them.
    pub(super) async fn read(&self, frames: Vec<Frame>) -> io::Result<Vec<Entry>> {
        let (done, read) = oneshot::channel();
        {
            let mut jobs = self.jobs();
            if jobs.stopped {
                return Err(closed());
            }
            jobs.waiting.push_back(Job { frames, done });
        }
        self.work.raise();
        read.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Ends the thread, and every read that waits.
    pub(super) fn stop(&self) {
        let waiting = {
            let mut jobs = self.jobs();
            jobs.stopped = true;
            std::mem::take(&mut jobs.waiting)
        };
        drop(waiting);
        self.work.raise();
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
pub(super) fn run(shared: &Shared) {
    let _guard = PoisonOnPanic(shared);
    let reader = &shared.reader;
    loop {
        let (job, stopped) = {
            let mut jobs = reader.jobs();
            (jobs.waiting.pop_front(), jobs.stopped)
        };
        match job {
            Some(job) => {
                let read = job.frames.iter().map(load).collect();
                // Whoever asked may have gone away.
                let _ = job.done.send(read);
            }
            None if stopped => return,
            None => {
                reader.work.wait(None);
            }
        }
    }
}

fn load((segment, location, position): &Frame) -> io::Result<Entry> {
    let offset = u64::from(location.offset);
    let mut bytes = vec![0; location.length as usize];
    let failed = |what: String| {
        let path = segment.path.display();
        io::Error::new(io::ErrorKind::InvalidData, format!("{path}: entry {} at {offset}: {what}", position.index))
    };
    segment.file.read_exact_at(&mut bytes, offset).map_err(|error| failed(error.to_string()))?;
    match record::parse(&bytes, 0, segment.life, offset) {
        Ok(Some((Record::Entry(found, payload), _))) if found == *position => {
            payload.decode(found).map_err(|error| failed(error.to_string()))
        }
        Ok(_) => Err(failed("the disk no longer holds what was written there".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}
