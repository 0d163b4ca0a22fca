//! One operation of one client, and its line of JSON.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::register::{Answer, Request};

/// One of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Store {
    /// The durable Value Store.
    #[serde(rename = "vs")]
    Values,
    /// The Cache.
    #[serde(rename = "cache")]
    Cache,
}

/// One operation of one client on one key. Times are nanoseconds of one clock that all clients share and that never goes
/// back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Where the key is.
    pub store: Store,
    /// The key. Equal keys of different tenants are different registers: put the tenant's name before it.
    pub key: String,
    /// What was asked.
    pub request: Request,
    /// A moment before it was sent.
    pub called_ns: u64,
    /// What is known of it.
    pub outcome: Outcome,
}

/// What a client knows of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was answered.
    Known {
        /// A moment after the answer had come.
        returned_ns: u64,
        /// The answer.
        answer: Answer,
        /// The generation of the Cache that answered; none of the Value Store.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// It may have been done, may be done at any later time, or never. So it is with every write that failed and was not
    /// surely refused.
    Unknown,
    /// It was not done, and never will be.
    Refused,
}

/// Why lines cannot be read as a history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("line {line}: {source}")]
    Io {
        /// Counted from 1.
        line: usize,
        /// What the system says.
        source: io::Error,
    },
    /// The line is no operation.
    #[error("line {line} is no operation: {source}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Operation {
    /// Writes it as one line of JSON.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_line(&self, mut to: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut to, self)?;
        to.write_all(b"\n")
    }
}
