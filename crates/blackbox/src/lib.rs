//! The black box: a cluster of real `insid` processes, real clients, and a nemesis, for a given time; and the judgement of what
//! the clients were answered. Nothing in here knows the inside of the server.
//!
//! 1. `cluster.rs` starts the nodes, each in a network namespace of its own where those can be made (`network.rs`), one of
//!    them on a small disk (`disk.rs`), all with a clock that can be moved (`clock.rs`).
//! 2. `clients.rs` asks them without an end, one HTTP request for one operation, and `tenants.rs` makes and deletes tenants and
//!    moves limits. Each operation is recorded with the times of its call and its return (`record.rs`).
//! 3. `nemesis.rs` makes the faults that `schedule.rs` draws from the seed, one at a time, and after each waits, with a bound,
//!    until the cluster is whole again.
//! 4. `closing.rs` reads everything through every node when the faults are over.
//! 5. `judge.rs` says what is wrong with all that was recorded. It sees the records alone, so that a run can be judged again.
//!
//! The seed decides the schedule of faults and what the clients choose to ask. It does not decide what comes of it: real
//! processes on a real machine do not repeat themselves. The records are what can be looked at again.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clients;
mod clock;
mod closing;
mod cluster;
mod disk;
mod judge;
mod nemesis;
mod network;
pub mod overload;
mod random;
mod record;
mod report;
mod runner;
mod schedule;
mod tenants;
mod value;
mod watch;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

pub use report::Report;
pub use runner::{check, run};
pub use schedule::FaultKind;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's program.
    pub insid: PathBuf,
    /// Where the nodes keep their data, and everything is recorded. Must not exist, or be empty.
    pub dir: PathBuf,
    /// How long faults are made. Starting, healing and checking come on top.
    pub duration: Duration,
    /// What the schedule of faults is drawn from.
    pub seed: u64,
    /// Which faults are made. Those that cannot be made here are passed over, and the report says so.
    pub faults: BTreeSet<FaultKind>,
    /// How many operations all clients together begin in a second.
    pub rate_per_second: u32,
}
