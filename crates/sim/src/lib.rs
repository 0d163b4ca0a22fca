//! A whole InsiDB cluster in one process, from one seed.
//!
//! Each node is the server's own code, from its HTTP layers down to its log, in a world that is simulated ([`run`]): time,
//! network, disks, machines. What goes wrong is drawn from the seed (`nemesis.rs`), what clients do too; what must
//! hold is in [`invariants`]. The same seed gives the same run, event by event, as far as `docs/testing.md` says.

mod clients;
mod dice;
mod disk;
mod entropy;
mod host;
pub mod invariants;
mod nemesis;
mod network;
mod threads;
mod trace;
mod world;

pub use trace::Trace;
pub use world::{Options, Report, run};
