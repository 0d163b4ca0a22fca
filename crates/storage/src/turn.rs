//! Whose turn it is: a lock whose guard may move to another thread, as a transaction may, and which a panic of its holder
//! releases rather than poisons, since an unfinished transaction changes nothing. Whoever has it can learn whether others wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Turn {
    queue: Mutex<Queue>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    waiting: usize,
}

impl Turn {
    /// Waits until nobody has the turn, and takes it until the guard is dropped.
    pub(crate) fn take(&self) -> TurnGuard<'_> {
        let mut queue = self.lock();
        queue.waiting += 1;
        while queue.taken {
            queue = self.given_back.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.waiting -= 1;
        queue.taken = true;
        TurnGuard { turn: self }
    }

    /// Whether somebody waits for whoever has the turn.
    pub(crate) fn is_awaited(&self) -> bool {
        self.lock().waiting > 0
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.turn.lock().taken = false;
        self.turn.given_back.notify_one();
    }
}
