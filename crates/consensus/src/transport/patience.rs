//! How long the frames of a stream may stay unanswered.
//!
//! A peer that is paused, or whose disk is, must be noticed soon. One that still takes in what was sent must not be given
//! up: all of it would be sent again, and given up again. From here the two look the same, so the time depends on how
//! many bytes are under way.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a frame may stay unanswered, beside the time that bytes take.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The slowest way on which bytes still count as flowing, in bytes a second.
const BYTES_PER_S_MIN: u64 = 1_000_000;

/// The frames of a stream that have no answer yet.
#[derive(Debug)]
pub(crate) struct Unanswered(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The size of each, the oldest first.
    frames: VecDeque<u64>,
    bytes: u64,
    /// When the oldest was sent, or the last answer came, whichever is later.
    since: Instant,
}

impl Unanswered {
    /// None so far.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { frames: VecDeque::new(), bytes: 0, since: now }))
    }

    /// A frame of so many bytes is on its way.
    pub(crate) fn sent(&self, now: Instant, bytes: usize) {
        let mut state = self.lock();
        if state.frames.is_empty() {
            state.since = now;
        }
        let bytes = bytes as u64;
        state.bytes += bytes;
        state.frames.push_back(bytes);
    }

    /// The oldest frame has its answer.
    pub(crate) fn answered(&self, now: Instant) {
        let mut state = self.lock();
        // An answer to nothing is the reader's to refuse.
        let bytes = state.frames.pop_front().unwrap_or(0);
        state.bytes -= bytes;
        state.since = now;
    }

    /// Until when the next answer is waited for; none while none is owed.
    pub(crate) fn patience_ends(&self) -> Option<Instant> {
        let state = self.lock();
        let flowing = Duration::from_millis(state.bytes.saturating_mul(1_000) / BYTES_PER_S_MIN);
        (!state.frames.is_empty()).then(|| state.since + SILENCE_MAX + flowing)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MB: usize = 1_000_000;

    #[test]
    fn patience_grows_with_the_bytes_under_way_and_begins_anew_with_each_answer() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let unanswered = Unanswered::new(begin);
        assert_eq!(unanswered.patience_ends(), None);

        unanswered.sent(after(500), 100);
        assert_eq!(unanswered.patience_ends(), Some(after(1_500)), "a second behind the sending, not the last answer");
        unanswered.sent(after(600), 10 * MB);
        unanswered.sent(after(700), 5 * MB);
        assert_eq!(unanswered.patience_ends(), Some(after(500 + 1_000 + 15_000)));

        unanswered.answered(after(900));
        assert_eq!(unanswered.patience_ends(), Some(after(900 + 1_000 + 15_000)));
        unanswered.answered(after(4_000));
        assert_eq!(unanswered.patience_ends(), Some(after(4_000 + 1_000 + 5_000)), "what arrived does not count");
        unanswered.answered(after(5_000));
        assert_eq!(unanswered.patience_ends(), None);
        unanswered.answered(after(6_000));
        unanswered.sent(after(9_000), 100);
        assert_eq!(unanswered.patience_ends(), Some(after(10_000)));
    }
}
