//! The replicated log: one generic Raft group, built twice. The only crate that names openraft.
//!
//! - `group` is the whole; `types` what it speaks of; `error` how it refuses.
//! - `submit` is the way in, which `gate` and `room` keep, `read` the way out, `state_machine` the middle.
//! - `log` holds the two logs, `checkpoint`, `purge` and `lag` keep them short, `watchdog` minds their disk, `transport` carries
//!   them to peers; `opening` is what must hold between log and state when a group starts, `reapply` brings the state to where
//!   the log is.
//! - `env` hands in the clock, randomness and threads.

mod checkpoint;
pub mod env;
mod error;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
mod gate;
mod group;
mod heartbeat;
mod hold;
mod lag;
mod leaders;
pub mod log;
mod membership;
mod opening;
mod purge;
mod read;
mod reapply;
mod rests;
mod room;
pub mod snapshot;
mod state_machine;
mod submit;
pub mod transport;
mod turns;
pub mod types;
mod watchdog;

pub use checkpoint::CheckpointStatus;
pub use error::Error;
pub use gate::{CheckpointPolicy, DiskFull};
pub use group::{Group, Options, Status};
pub use membership::{Basis, ChangeError, Member, MemberChange, Members};
pub use submit::OnFollower;
