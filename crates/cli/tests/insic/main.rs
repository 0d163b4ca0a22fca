//! The real binary against a server that answers what each test wrote down.

#![allow(clippy::unwrap_used)]

mod binary;
mod failures;
mod operators;
mod settings;
mod stores;

#[path = "../../../client/tests/sdk/scripted.rs"]
mod scripted;
#[path = "../../../client/tests/sdk/scripted_tls.rs"]
mod scripted_tls;
