//! The two logs.

pub mod memory;
