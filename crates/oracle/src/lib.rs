//! The judge of what clients of InsiDB were answered. No InsiDB code is in here, no clock and no thread: the black box, the
//! simulator and the tests of the server all ask the same judge.
//!
//! 1. Whoever drives clients notes every [`Operation`]: store, key, [`Request`], when it was called, and its [`Outcome`]:
//!    an [`Answer`], nothing known, or surely not done. [`Operation::write_line`] writes it as a line of JSON.
//! 2. [`History::push`] collects them, or [`History::read`] reads the lines again.
//! 3. [`History::check`] takes the history apart, one register for each key, and for each generation of the Cache
//!    (`history.rs`), and looks for an order of each register's operations that explains all answers (`search.rs`).
//! 4. The first [`Fault`] names the key and an excerpt: the operations around the first answer that nothing explains.
//!
//! Linearizability is local (Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects", 1990,
//! theorem 1): a history is linearizable when that of each key is.
//!
//! It decides thousands of operations on one key, hundreds of them unknown, in a second or a few. What makes it slow, up to
//! [`Finding::Undecided`], is unknown additions of many different amounts, since sums do not tell which of them were done: let
//! clients add few different amounts, and write values that lie further apart than all additions together.
//!
//! ```
//! use insidb_oracle::{Answer, History, Operation, Outcome, Request, Store};
//!
//! let get = |called_ns, content| Operation {
//!     store: Store::Values,
//!     key: "tenant/greeting".to_owned(),
//!     request: Request::Get,
//!     called_ns,
//!     outcome: Outcome::Known { returned_ns: called_ns + 5, answer: Answer::Content(content), generation: None },
//! };
//! let unknown = Operation { request: Request::Set(7), outcome: Outcome::Unknown, ..get(0, None) };
//! let mut history = History::default();
//! history.push(unknown);
//! history.push(get(10, Some(7)));
//! assert!(history.check().is_ok());
//! history.push(get(20, None));
//! assert!(history.check().is_err());
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod fault;
mod history;
mod operation;
mod register;
mod search;

pub use fault::{Fault, Finding};
pub use history::History;
pub use operation::{Operation, Outcome, ReadError, Store};
pub use register::{Answer, Content, Request};
