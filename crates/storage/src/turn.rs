//! Whose turn it is to write: a lock whose guard may move to another thread, as a transaction may, and which a
//! panic of its holder releases rather than poisons, since an unfinished transaction changes nothing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Turn {
    taken: Mutex<bool>,
    given_back: Condvar,
}

impl Turn {
    /// Waits until nobody has the turn, and takes it until the guard is dropped.
    pub(crate) fn take(&self) -> TurnGuard<'_> {
        let mut taken = self.lock();
        while *taken {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        TurnGuard { turn: self }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.turn.lock() = false;
        self.turn.given_back.notify_one();
    }
}
