//! The SDK against a server that answers what each test wrote down.

#![allow(clippy::unwrap_used)]

mod refusals;
mod requests;
mod retries;
mod scripted;
mod scripted_tls;
mod tls;
