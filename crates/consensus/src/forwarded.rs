//! What a follower asks of the leader in its clients' place.

use std::time::Duration;

use futures_util::future::join_all;
use storage::Engine;
use tokio::time::Instant;

use crate::{
    group::Group,
    read,
    transport::message::{Answer, Forwarded},
};

impl<E: Engine> Group<E> {
    /// Proposes what a follower was given. It is not passed on again: a member that does not lead says so.
    pub(crate) async fn propose_forwarded(&self, forwarded: Forwarded) -> Answer {
        let Forwarded { wait_ms, commands } = forwarded;
        let now = Instant::now();
        let proposals = commands
            .into_iter()
            .zip(wait_ms)
            .map(|(command, wait_ms)| self.propose(command, now + Duration::from_millis(wait_ms)));
        Answer::Proposed(join_all(proposals).await)
    }

    /// Up to where a linearizable read that begins now must have applied.
    pub(crate) async fn answer_read_index(&self) -> Answer {
        Answer::ReadIndex(read::index(self).await)
    }
}
