//! The hold on votes behind a start.
//!
//! A leader answers reads from its lease: for as long as its followers have promised not to elect another. openraft
//! keeps that promise in memory alone, so that a follower that restarts has forgotten it. Therefore a member that starts
//! with a vote in its log neither grants votes nor campaigns for one whole lease: whatever it has promised has run out
//! by then. A member that alone is a majority has promised nobody anything.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::wire::Refusal;

/// Until when votes are held back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    until: Option<Instant>,
}

impl Hold {
    /// Holds votes back for `lease`, from now on.
    pub(crate) fn new(lease: Option<Duration>) -> Self {
        Self { until: lease.map(|lease| Instant::now() + lease) }
    }

    /// When campaigning may begin; none when at once.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets a request for a vote through.
    ///
    /// # Errors
    /// While votes are held back. A refusal, since to openraft an answer that grants nothing is a word about the
    /// answerer's own vote, and there is none to say.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self.until {
            Some(until) if Instant::now() < until => {
                Err(Refusal("this member has just started, and may have promised its vote".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }
}
