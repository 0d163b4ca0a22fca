//! What can go wrong, told apart by what its reader does next.

use std::time::Duration;

use api::code::Code;

use crate::refusal::{RateLimit, Refusal};

/// Why a call did not do what it was asked to. No message holds an API key, a stored key or a value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client is not set up for this call; nothing was sent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node answered, and refused. Nothing was done.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No connection came about with any node that was tried: nothing was sent, so nothing was done.
    #[error("cannot reach {node}: {reason}")]
    Unreachable {
        /// The node that was tried last.
        node: String,
        /// What the operating system or the TLS library says.
        reason: String,
    },
    /// A read was sent, and no whole answer came back. It may be sent again.
    #[error("no answer from {node}: {reason}")]
    Interrupted {
        /// The node that was asked.
        node: String,
        /// What broke.
        reason: String,
    },
    /// A write was sent, and nothing tells whether it was done. Read the key before deciding what to do.
    #[error("the outcome is unknown: {node}: {reason}")]
    OutcomeUnknown {
        /// The node that was asked.
        node: String,
        /// What broke, or what the node says.
        reason: String,
        /// The node's answer, when there was one.
        refusal: Option<Box<Refusal>>,
    },
    /// The answer to a read, or to a write that was not accepted, is none that InsiDB gives: is the URL right?
    #[error("{node} answered {status}, {reason}")]
    UnexpectedAnswer {
        /// The node that was asked.
        node: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        reason: &'static str,
    },
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A call of the public listener, and no URL of one.
    #[error("no URL is set: give that of a node's public listener")]
    NoUrl,
    /// A call of the private listener, and no URL of one.
    #[error("no admin URL is set: give that of a node's private listener")]
    NoAdminUrl,
    /// Not a URL, not http or https, or with a user name, password, query or fragment.
    #[error("a URL is refused: {0}")]
    Url(&'static str),
    /// The API key holds what no header can.
    #[error("the API key holds characters that no key has")]
    Key,
    /// The CA certificate cannot be read, or there is none in it.
    #[error("the CA certificate is refused: {0}")]
    CaCertificate(String),
    /// The TLS library or the HTTP client does not start.
    #[error("the HTTP client does not start: {0}")]
    Start(String),
}

impl Error {
    /// The server's code, when a server of this version or an earlier one refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.refusal().and_then(|refusal| refusal.code)
    }

    /// The refusal, when a node answered with one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::OutcomeUnknown { refusal, .. } => refusal.as_deref(),
            Self::Config(_) | Self::Unreachable { .. } | Self::Interrupted { .. } | Self::UnexpectedAnswer { .. } => {
                None
            }
        }
    }

    /// How long the server asks to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// Whether sending the same request again, unchanged, is safe and may succeed. `false` for what the server will
    /// refuse again, and for what may have been done already.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                matches!(refusal.status, 408 | 429 | 502 | 503 | 504)
                    && !refusal.rate_limit.is_some_and(RateLimit::refuses_all)
            }
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Config(_) | Self::OutcomeUnknown { .. } | Self::UnexpectedAnswer { .. } => false,
        }
    }
}
