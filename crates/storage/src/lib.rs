//! Bytes: an ordered map with atomic transactions, in memory ([`memory`]) and durable ([`disk`]).
//!
//! This crate knows nothing of keys, tenants, quotas or Raft. `state` says what the rows mean.

mod ahead;
pub mod disk;
pub mod engine;
pub mod fs;
pub mod memory;
mod tree;
mod turn;

pub use ahead::Ahead;
pub use disk::DiskEngine;
pub use engine::{Backlog, Bytes, Engine, Error, KeyRange, Read, Rest, Result, Row, Transaction, View};
pub use memory::MemoryEngine;
