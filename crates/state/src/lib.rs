//! The rules: what every command does to the state, and nothing else.
//!
//! 1. An entry of the log reaches [`apply::Applying::apply`], which takes its commands one after another.
//! 2. Each command has one function that decides: `apply/data.rs` for tenants' writes, `apply/admin.rs` for keys and
//!    limits, `apply/cleanup.rs` for the removal of deleted scopes, `apply/registry.rs` for the cache group.
//! 3. They change rows through `rows.rs`, which keeps the state's hash; `layout.rs` alone knows what rows look like.
//! 4. [`apply::Applying::commit`] makes it all visible at once, the applied position included.
//! 5. [`query::Reader`] answers from one consistent view; [`snapshot`] carries a view to another node.
//!
//! Everything here is deterministic: no clock, randomness, async, logging, sockets or Raft. Time arrives inside
//! the log entry, stamped by the leader; ids and secrets' hashes arrive inside the command.

pub mod applied;
pub mod apply;
pub mod audit;
pub mod bounds;
pub mod command;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
pub mod hash;
pub mod ids;
pub mod keys;
pub mod kv;
mod layout;
pub mod outcome;
pub mod query;
pub mod registry;
mod rows;
pub mod snapshot;
pub mod usage;

pub use outcome::Fault;
