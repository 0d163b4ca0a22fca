//! The wire contract: what goes over HTTP, as types. No logic, and nothing but serde below it, so that a client in
//! another language can be written from this crate alone.

pub mod code;
pub mod header;
pub mod path;
pub mod request;
pub mod response;
