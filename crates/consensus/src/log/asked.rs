//! A log for tests that looks at no entries: it counts how often it is asked for room.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use state::ids::Position;
use tokio::sync::oneshot;

use super::LocalLog;

/// See the module.
#[derive(Default)]
pub(crate) struct Asked(AtomicUsize);

impl Asked {
    pub(crate) fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl LocalLog for Asked {
    fn stalled_for(&self) -> Duration {
        Duration::ZERO
    }

    fn has_room_for(&self, _: u64, _: bool) -> bool {
        true
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn tail_bytes(&self) -> u64 {
        0
    }

    fn tail_start(&self, _: u64) -> u64 {
        0
    }

    fn note_committed(&self, _: Position) -> oneshot::Receiver<io::Result<()>> {
        unreachable!("nobody notes here")
    }
}
