//! The real binary against a server that answers what each test wrote down.

#![allow(clippy::unwrap_used)]

mod bench;
mod bench_failures;
mod binary;
mod failures;
mod keeper;
mod operators;
mod settings;
mod stores;

#[path = "../../../client/tests/sdk/scripted.rs"]
mod scripted;
#[path = "../../../client/tests/sdk/scripted_tls.rs"]
mod scripted_tls;
