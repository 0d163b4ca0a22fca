//! The way of a follower's commands to the leader.
//!
//! 1. What waits goes together as one message, as an entry would: up to as many commands and bytes, where scopes take turns
//!    (`turns.rs`); several messages are under way at a time, and nothing waits for a timer. Large commands go apart from
//!    small ones, since a message is answered when all in it is done: else the small ones would wait for the large.
//! 2. Each command carries how long its caller still waits. The leader queues each on its own, and answers each.
//! 3. Once this member knows another leader, the answer of the old one is not waited for.
//! 4. A message that could not be sent, and a leader that says that it is none, prove that nothing was appended: the
//!    command goes back. Any other silence leaves the outcome unknown.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    async_runtime::watch::WatchReceiver as _, metrics::RaftServerMetrics, type_config::alias::WatchReceiverOf,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use crate::{
    Error,
    submit::{Answer as Answered, Failed, Queue},
    transport::{
        message::{Answer, Forwarded, Question},
        network::Peers,
        wire::WireError,
    },
    turns::{Turns, Waiting},
    types::{MemberId, Peer, TypeConfig},
};

/// What changes with the leader and the members alone, not with each entry.
type Metrics = WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>;

/// Messages of small commands that may be under way.
const SMALL_IN_FLIGHT_MAX: usize = 16;
/// Messages of large commands that may be under way.
const LARGE_IN_FLIGHT_MAX: usize = 8;
/// From this size on a command is large, in bytes.
const LARGE_BYTES: usize = 64 * 1024;
/// Commands that may wait to be sent.
const QUEUED_COMMANDS_MAX: usize = 16_384;
/// What the leader's answer may take on its way, beside the time that the commands have.
const WAY_BACK: Duration = Duration::from_millis(200);

/// Which of the two ways a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Small,
    Large,
}

impl Size {
    /// That of a command of so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        if bytes < LARGE_BYTES { Self::Small } else { Self::Large }
    }
}

/// Sends commands to whoever leads.
pub(crate) struct Forwarder {
    peers: Peers,
    metrics: Metrics,
    /// The ways to the leader that was last known.
    current: Mutex<Option<Ways>>,
}

struct Ways {
    leader: MemberId,
    peer: Peer,
    small: Queue,
    large: Queue,
}

impl Forwarder {
    pub(crate) fn new(peers: Peers, metrics: Metrics) -> Self {
        Self { peers, metrics, current: Mutex::new(None) }
    }

    /// The queue to this leader for commands of this size. The task behind it ends when nobody holds its queue any more.
    pub(crate) fn queue(&self, leader: MemberId, peer: &Peer, size: Size) -> Queue {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let known = current.take().filter(|ways| ways.leader == leader && ways.peer == *peer);
        let ways = current.insert(known.unwrap_or_else(|| self.ways(leader, peer)));
        match size {
            Size::Small => ways.small.clone(),
            Size::Large => ways.large.clone(),
        }
    }

    fn ways(&self, leader: MemberId, peer: &Peer) -> Ways {
        let begin = |in_flight_max| {
            let (queue, waiting) = mpsc::channel(QUEUED_COMMANDS_MAX);
            let way = Way { peers: self.peers.clone(), metrics: self.metrics.clone(), leader, peer: peer.clone() };
            tokio::spawn(way.send(Turns::new(waiting), in_flight_max));
            queue
        };
        Ways { leader, peer: peer.clone(), small: begin(SMALL_IN_FLIGHT_MAX), large: begin(LARGE_IN_FLIGHT_MAX) }
    }
}

/// The way to one leader.
#[derive(Clone)]
struct Way {
    peers: Peers,
    metrics: Metrics,
    leader: MemberId,
    peer: Peer,
}

impl Way {
    /// Sends what comes into the queue, until nobody holds it any more.
    async fn send(self, mut turns: Turns, in_flight_max: usize) {
        let in_flight = Arc::new(Semaphore::new(in_flight_max));
        while turns.wait().await {
            let permit = in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
            let together = turns.take();
            let way = self.clone();
            tokio::spawn(async move {
                way.send_together(together).await;
                drop(permit);
            });
        }
    }

    async fn send_together(mut self, waiting: Vec<Waiting>) {
        let now = Instant::now();
        let mut wait_max = Duration::ZERO;
        let mut forwarded = Forwarded { wait_ms: Vec::new(), commands: Vec::new() };
        let mut answers = Vec::with_capacity(waiting.len());
        for Waiting { command, deadline, answer, .. } in waiting {
            // Whoever gave up waiting was told that the outcome is unknown; not proposing is one of the two.
            if !answer.is_closed() {
                let wait = deadline.saturating_duration_since(now);
                wait_max = wait_max.max(wait);
                forwarded.wait_ms.push(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                forwarded.commands.push(command);
                answers.push(answer);
            }
        }
        if answers.is_empty() {
            return;
        }
        let results = self.ask(forwarded, wait_max + WAY_BACK).await;
        for (answer, result) in answers.into_iter().zip(results) {
            // A receiver that is gone gave up waiting.
            drop(answer.send(result));
        }
    }

    /// One answer a command.
    async fn ask(&mut self, forwarded: Forwarded, wait_max: Duration) -> Vec<Answered> {
        let expected = forwarded.commands.len();
        let unknown = || std::iter::repeat_with(|| Err(Error::OutcomeUnknown.into())).take(expected).collect();
        let question = Question::Propose(forwarded);
        let answer = tokio::select! {
            answer = self.peers.ask(self.leader, &self.peer, &question, wait_max) => answer,
            () = deposed(&mut self.metrics, self.leader) => return unknown(),
        };
        let Question::Propose(Forwarded { commands, .. }) = question else { unreachable!("it was made so above") };
        match answer {
            Ok(Answer::Proposed(results)) if results.len() == expected => {
                let results = results.into_iter().zip(commands);
                results.map(|(result, command)| result.map_err(|error| failed(error, command))).collect()
            }
            Err(WireError::Unreachable(_) | WireError::Refused(_)) => {
                commands.into_iter().map(|command| Err(failed(Error::NoLeader, command))).collect()
            }
            Ok(_) | Err(WireError::Broken(_)) => unknown(),
        }
    }
}

/// Returns some time after this member has come to know another leader than `leader`: an answer on its way has arrived
/// by then.
async fn deposed(metrics: &mut Metrics, leader: MemberId) {
    loop {
        let current = metrics.borrow_watched().current_leader;
        if current.is_some_and(|current| current != leader) {
            return tokio::time::sleep(WAY_BACK).await;
        }
        if metrics.changed().await.is_err() {
            // The group has stopped; the answer may come all the same.
            return std::future::pending().await;
        }
    }
}

/// What the leader's own error means here. Where there was no leader, another may be found.
fn failed(error: Error, command: state::command::Command) -> Failed {
    match error {
        Error::NoLeader | Error::NotLeader(_) | Error::Stopped => {
            Failed { error: Error::NoLeader, command: Some(Box::new(command)) }
        }
        Error::NoQuorum | Error::Overloaded | Error::DiskFull | Error::MemoryFull | Error::OutcomeUnknown => {
            error.into()
        }
    }
}
