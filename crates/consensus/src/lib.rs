//! The replicated log: one generic Raft group, built twice. The only crate that names openraft.

pub mod env;
pub mod log;
pub mod types;
