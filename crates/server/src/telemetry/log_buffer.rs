//! Log lines on their way to standard error, which no request ever waits for.
//!
//! 1. Each event, formatted by the thread that has it, is appended to one bounded buffer: a short lock and a copy,
//!    where a write of its own would be a system call for every request.
//! 2. A thread takes all that has gathered, a few milliseconds' worth, and writes it at once.
//! 3. Where standard error is not read, the buffer fills, and further events are dropped, counted, and reported once
//!    it is read again: a node that serves without its log is better than one that waits for it.
//! 4. At the end of the process what has gathered is waited for, but not for long.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus::env::{Env, Signal};
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written, in bytes: half a second of a node's log at 60,000 requests a second.
const BYTES_MAX: usize = 8 << 20;
/// How long events gather before they are written together.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// How long the end of the process waits for standard error.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// Where log events are written. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogBuffer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<Vec<u8>>,
    /// Raised when there is something to write.
    filled: Arc<dyn Signal>,
    /// Raised when there will be nothing more.
    ending: Arc<dyn Signal>,
    /// Raised when all is written.
    ended: Arc<dyn Signal>,
    dropped_events: Counter,
}

impl LogBuffer {
    /// Begins to write to `sink` on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn start(env: &dyn Env, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            lines: Mutex::default(),
            filled: env.signal(),
            ending: env.signal(),
            ended: env.signal(),
            dropped_events: Counter::default(),
        });
        let writer = shared.clone();
        // Nobody joins it: what a stuck standard error holds up must not hold up the end of the process.
        drop(env.spawn("insid-log", Box::new(move || writer.write_out(sink)))?);
        Ok(Self(shared))
    }

    /// Counts the events that were dropped.
    pub(crate) fn dropped_events(&self) -> Counter {
        self.0.dropped_events.clone()
    }

    /// Writes what has gathered, and ends. False when that took too long.
    pub(crate) fn end(&self) -> bool {
        self.0.ending.raise();
        self.0.filled.raise();
        self.0.ended.wait(Some(END_TIME_MAX))
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, event: &[u8]) {
        let mut lines = self.lines();
        if lines.len() + event.len() > BYTES_MAX {
            self.dropped_events.inc();
            return;
        }
        let was_empty = lines.is_empty();
        lines.extend_from_slice(event);
        drop(lines);
        if was_empty {
            self.filled.raise();
        }
    }

    fn write_out(&self, mut sink: impl Write) {
        let mut taken = Vec::new();
        let mut reported = 0;
        let mut ending = false;
        while !ending {
            self.filled.wait(None);
            ending = self.ending.wait(Some(GATHER_TIME));
            mem::swap(&mut taken, &mut *self.lines());
            // Where standard error is gone, the node serves all the same.
            drop(sink.write_all(&taken).and_then(|()| sink.flush()));
            taken.clear();
            let dropped = self.dropped_events.get();
            if dropped > reported {
                tracing::warn!(events = dropped - reported, "log events were dropped: standard error was not read");
                reported = dropped;
            }
        }
        self.ended.raise();
    }
}

impl<'a> MakeWriter<'a> for LogBuffer {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(&self.0)
    }
}

/// One event's way into the buffer: `tracing` writes each in one piece, so that none is torn.
pub(crate) struct Event<'a>(&'a Shared);

impl Write for Event<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.append(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use consensus::env::System;

    use super::*;

    /// A standard error that is read only when the test does so.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (LogBuffer, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::sync_channel(0);
        (LogBuffer::start(&System::new(), Pipe(sender)).unwrap(), receiver)
    }

    #[test]
    fn all_is_written_in_order_before_the_end() {
        let (buffer, written) = start();
        let lines: Vec<String> = (0..10_000).map(|number| format!("event {number}\n")).collect();
        let ending = {
            let (buffer, lines) = (buffer.clone(), lines.clone());
            let (done, ended) = mpsc::channel();
            let write = move || {
                for line in lines {
                    buffer.make_writer().write_all(line.as_bytes()).unwrap();
                }
                done.send(buffer.end()).unwrap();
            };
            drop(System::new().spawn("test", Box::new(write)).unwrap());
            ended
        };
        // The writer ends with the end, and its sink with it.
        let mut all = String::new();
        drop(buffer);
        while let Ok(piece) = written.recv() {
            all += std::str::from_utf8(&piece).unwrap();
        }
        assert_eq!(all, lines.concat());
        assert!(ending.recv().unwrap());
    }

    #[test]
    fn where_nobody_reads_nobody_waits() {
        let (buffer, written) = start();
        let event = [b'x'; 1 << 20];
        // One part of them is in the writer's hands, another in the buffer.
        for _ in 0..100 {
            buffer.make_writer().write_all(&event).unwrap();
        }
        let dropped = buffer.dropped_events().get();
        assert!((100 - 2 * 8..=100 - 8).contains(&dropped), "{dropped}");
        assert!(!buffer.end(), "not even the end of the process");
        let bytes: usize = written.iter().map(|piece| piece.len()).sum();
        assert_eq!(bytes as u64, (100 - dropped) << 20, "what was taken is written all the same");
    }
}
