//! How a member reaches its peers.
//!
//! 1. [`wire`] is the border: messages are bytes, whoever carries them knows nothing of Raft. The node brings gRPC, a
//!    test or a simulator something of its own.
//! 2. [`message`] says what travels: one closed enum for questions with one answer, and the frames of the two streams.
//! 3. `network` is openraft's way out, `inbound` the way in.

pub(crate) mod contact;
mod contradiction;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
pub(crate) mod inbound;
pub(crate) mod inbound_snapshot;
pub(crate) mod leading;
#[cfg(any(test, feature = "testing"))]
pub mod loopback;
pub mod message;
pub(crate) mod network;
mod outbound_snapshot;
mod patience;
pub(crate) mod silence;
pub(crate) mod spool;
pub mod wire;
