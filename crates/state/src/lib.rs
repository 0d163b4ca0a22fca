//! The rules: what every command does to the state, and nothing else.
//!
//! Everything here is deterministic: no clock, randomness, async, logging, sockets or Raft. Time arrives inside
//! the log entry, stamped by the leader; ids and secrets' hashes arrive inside the command.

pub mod bounds;
pub mod command;
pub mod ids;
pub mod keys;
pub mod kv;
pub mod outcome;
pub mod query;
pub mod registry;
