//! The rules from outside: transcripts, a plain model, and snapshots, over every engine and both keyspaces.

#![allow(clippy::unwrap_used)]

mod bounds;
mod engine;
mod foresight;
mod grouping;
mod host;
mod model;
mod opening;
mod random;
mod scripts;
mod snapshots;
mod words;
