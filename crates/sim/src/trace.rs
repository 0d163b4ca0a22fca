//! What happened, in order: a running hash of it all, and, when asked for, its lines.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    hash: u64,
    events: u64,
    shown: bool,
}

/// The trace of one run. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<State>>);

impl Trace {
    /// Writes each event to standard output too.
    pub fn shown() -> Self {
        Self(Arc::new(Mutex::new(State { shown: true, ..State::default() })))
    }

    /// Notes an event at a moment.
    pub fn note(&self, now_ns: u64, event: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.events += 1;
        let bytes = now_ns.to_le_bytes().into_iter().chain(event.bytes());
        state.hash = bytes.fold(state.hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        if state.shown {
            #[expect(clippy::print_stdout, reason = "asked for")]
            {
                println!("{:>12.6} {event}", now_ns as f64 / 1e9);
            }
        }
    }

    /// How many events there were, and what they all hash to.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.events, state.hash)
    }
}
