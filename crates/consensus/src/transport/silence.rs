//! When a leader that has lost its quorum falls silent.
//!
//! A leader that is heard and hears nothing keeps its followers from electing another for as long as it speaks: every
//! append begins their wait anew. So behind its lease it speaks and is silent by turns, each for [`turn`]: a follower's
//! wait has run out by the end of a silent turn, with time for an election, and the speaking turn finds a quorum that is
//! back.
//!
//! openraft keeps its heartbeats back so (`quorum_loss_probe_interval`). Entries it does not, and those that nobody
//! acknowledges are sent again each time that their stream is given up: about once a second, into the silence. This
//! holds back streams and snapshots by the same clock.

use std::time::Duration;

/// How long a leader without a quorum is silent, and then speaks.
///
/// A follower that has heard from it at the end of its lease, which is twice the least election timeout, waits for as
/// long again until its promise has run out, and then for up to as long once more before it asks for votes. The rest is
/// for the votes, and for asking a second time.
pub(crate) const fn turn(election_timeout: Duration) -> Duration {
    Duration::from_millis(election_timeout.as_millis() as u64 * 6)
}

/// The turns of one leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    lease: Duration,
    turn: Duration,
}

impl Silence {
    /// The turns by this least election timeout.
    pub(crate) const fn new(election_timeout: Duration) -> Self {
        Self { lease: Duration::from_millis(election_timeout.as_millis() as u64 * 2), turn: turn(election_timeout) }
    }

    /// How much longer a leader must be silent whose last quorum is so old; none when it may speak.
    pub(crate) fn remaining(self, quorum_age: Duration) -> Option<Duration> {
        let over = quorum_age.checked_sub(self.lease)?.as_nanos();
        let turn = self.turn.as_nanos();
        let within = (over % turn) as u64;
        (over / turn).is_multiple_of(2).then(|| self.turn - Duration::from_nanos(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_silent_behind_its_lease_and_speaks_every_second_turn() {
        let silence = Silence::new(Duration::from_millis(100));
        let remaining = |ms| silence.remaining(Duration::from_millis(ms)).map(|left| left.as_millis());
        assert_eq!(remaining(0), None);
        assert_eq!(remaining(199), None);
        assert_eq!(remaining(200), Some(600));
        assert_eq!(remaining(799), Some(1));
        assert_eq!(remaining(800), None);
        assert_eq!(remaining(1_399), None);
        assert_eq!(remaining(1_400), Some(600));
        assert_eq!(remaining(1_999), Some(1));
        assert_eq!(remaining(2_000), None);
    }
}
