//! The Rust SDK of InsiDB: one typed method per operation, for both stores, the caller's own key, and operators.
//!
//! What flows through here:
//! 1. A method of [`Store`], [`Client`] or [`Admin`] names a route and says whether it reads or writes (`call`).
//! 2. `transport` tries it on a node, and says what is known when no answer comes: nothing was done, or nobody knows.
//! 3. `refusal` turns an answer that is no success into an [`Error`], by the server's code.
//! 4. `retry` decides, by the error alone, whether another try is safe, and when; the next node is asked.
//! 5. The method takes the body apart and hands it out in an [`Answer`], with revision and cache generation.
//!
//! A write is sent again only when its answer, or the lack of a connection, proves that nothing was done. What may
//! have been done is [`Error::OutcomeUnknown`], never a failure.
//!
//! ```no_run
//! # async fn example() -> Result<(), insidb_client::Error> {
//! let client = insidb_client::Client::builder().url("http://127.0.0.1:8080").key("insi_…").build()?;
//! client.values().set("greeting", "hello").await?;
//! assert_eq!(client.values().get("greeting").await?.value.as_deref(), Some("hello"));
//! # Ok(())
//! # }
//! ```

mod admin;
mod answer;
mod builder;
mod call;
mod client;
mod cursor;
mod error;
mod refusal;
mod retry;
mod store;
mod tls;
mod transport;

pub use admin::{Admin, ApiKey};
pub use answer::Answer;
pub use api::{code::Code, request, response};
pub use builder::Builder;
pub use client::Client;
pub use cursor::Cursor;
pub use error::{ConfigError, Error};
pub use refusal::{RateLimit, Refusal, Usage};
pub use store::{Cache, Keyspace, Store, Values};
