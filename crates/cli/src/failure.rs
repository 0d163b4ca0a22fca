//! How a run ends: the exit code, one sentence on what happened, and one on what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use insidb_client::{Code, ConfigError, Error, RateLimit};
use serde::Serialize;

use crate::{escape, output};

/// The exit codes, which scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The expected negative: absent, or a condition that does not hold.
    Negative = 1,
    /// Wrong usage or settings.
    Usage = 2,
    /// Refused: API key, permission, quota or rate limit.
    Refused = 3,
    /// No answer, or the outcome is unknown.
    Unknown = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong. No message holds an API key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command cannot be run as it was given.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// The SDK's error.
    #[error(transparent)]
    Client(#[from] Error),
    /// A benchmark in which nothing was served.
    #[error("{message}")]
    Unserved { message: String, hint: Option<String>, exit: Exit },
    /// Standard output takes no more.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Client(error.into())
    }
}

/// A failure as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    error: ReportBody<'a>,
}

#[derive(Serialize)]
struct ReportBody<'a> {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    exit: u8,
}

impl Failure {
    /// A mistake in usage, and what to do instead.
    pub(crate) fn usage(message: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.to_string(), hint: hint.into() }
    }

    /// Prints the failure to standard error, and says how to exit.
    pub(crate) fn report(&self, json: bool) -> Exit {
        // A reader that has seen enough, as `head` has, is no failure.
        if matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return Exit::Done;
        }
        let exit = self.exit();
        let hint = self.hint();
        let text = if json {
            let error = self.client_error();
            let body = ReportBody {
                message: self.to_string(),
                hint: hint.as_deref(),
                code: error.and_then(Error::code),
                status: error.and_then(Error::refusal).map(|refusal| refusal.status),
                retry_after_seconds: self.wait_seconds(),
                exit: exit as u8,
            };
            escape::json(&Report { error: body }).expect("a plain struct")
        } else {
            // A node's words, and names from the command line, may hold anything.
            let error = format!("error: {self}");
            let error = escape::controls(&error, &[]);
            match hint {
                Some(hint) => format!("{error}\nhint: {}", escape::controls(&hint, &[])),
                None => error.into_owned(),
            }
        };
        output::say(&text);
        exit
    }

    fn client_error(&self) -> Option<&Error> {
        match self {
            Self::Client(error) => Some(error),
            Self::Usage { .. } | Self::Unserved { .. } | Self::Output(_) => None,
        }
    }

    /// Whether the key's rate limit is 0, which no waiting helps against.
    fn is_shut_out(&self) -> bool {
        self.client_error()
            .and_then(Error::refusal)
            .and_then(|refusal| refusal.rate_limit)
            .is_some_and(RateLimit::refuses_all)
    }

    /// How long to wait before the next try, if the server says so and waiting helps.
    fn wait_seconds(&self) -> Option<u64> {
        let wait = self.client_error()?.retry_after()?;
        (!self.is_shut_out()).then_some(wait.as_secs())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::Client(Error::Config(_)) => Exit::Usage,
            Self::Unserved { exit, .. } => *exit,
            Self::Client(Error::Refused(refusal)) => exit_of(refusal.status, refusal.code),
            Self::Client(Error::Unreachable { .. } | Error::Interrupted { .. } | Error::OutcomeUnknown { .. })
            | Self::Client(Error::UnexpectedAnswer { .. })
            | Self::Output(_) => Exit::Unknown,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage { hint, .. } => return Some(hint.clone()),
            Self::Unserved { hint, .. } => return hint.clone(),
            Self::Output(_) => return None,
            Self::Client(Error::Config(error)) => config_hint(error),
            Self::Client(Error::Refused(_)) if self.is_shut_out() => {
                "the key's rate limit is 0: an operator raises it with `insic limits set --rate-per-second N UUID`"
            }
            Self::Client(Error::Refused(refusal)) => {
                return refusal.code.and_then(|code| code_hint(code, self.wait_seconds().unwrap_or(1)));
            }
            Self::Client(Error::Unreachable { reason, .. }) if reason.contains("certificate") => {
                "does the URL name the node as its certificate does? --ca FILE trusts a private authority"
            }
            Self::Client(Error::Unreachable { reason, .. }) if reason.contains("InvalidContentType") => {
                "does the node speak HTTPS? Try the URL with http://"
            }
            Self::Client(Error::Interrupted { reason, .. } | Error::OutcomeUnknown { reason, .. })
                if reason.contains("invalid HTTP version") =>
            {
                "does the node speak HTTPS? Try the URL with https://"
            }
            Self::Client(Error::Unreachable { .. }) => "is a node running there? Check --url, or INSIDB_URL",
            Self::Client(Error::Interrupted { .. }) => "nothing was changed; try again",
            Self::Client(Error::OutcomeUnknown { .. }) => {
                "the write may or may not have been done: look before you repeat it"
            }
            Self::Client(Error::UnexpectedAnswer { .. }) => "is the URL that of an InsiDB node?",
        };
        Some(hint.to_owned())
    }
}

/// How a refusal ends a run.
pub(crate) fn exit_of(status: u16, code: Option<Code>) -> Exit {
    code.map_or_else(|| exit_of_status(status), exit_of_code)
}

fn exit_of_status(status: u16) -> Exit {
    match status {
        401 | 403 | 429 => Exit::Refused,
        500.. => Exit::Unknown,
        _ => Exit::Usage,
    }
}

fn exit_of_code(code: Code) -> Exit {
    match code {
        Code::KeyNotFound
        | Code::ApiKeyNotFound
        | Code::KeyExists
        | Code::ValueDiffers
        | Code::NotAnInteger
        | Code::SumOutOfRange => Exit::Negative,
        Code::DiskQuotaExceeded
        | Code::MemoryQuotaExceeded
        | Code::TooManyAliases
        | Code::AliasCannotCreate
        | Code::Unauthorized
        | Code::Forbidden
        | Code::AddressForbidden
        | Code::RateLimited
        | Code::AddressRateLimited
        | Code::ClusterChangeRefused => Exit::Refused,
        Code::MalformedBody
        | Code::MalformedRequest
        | Code::InvalidParameter
        | Code::KeyEmpty
        | Code::KeyTooLarge
        | Code::ValueTooLarge
        | Code::RouteNotFound
        | Code::MethodNotAllowed
        | Code::UrlTooLong
        | Code::EncodedBody
        | Code::HeadersTooLarge => Exit::Usage,
        Code::HeadTimeout
        | Code::BodyTimeout
        | Code::Internal
        | Code::NoLeader
        | Code::LeaderElsewhere
        | Code::NoQuorum
        | Code::Overloaded
        | Code::DiskFull
        | Code::MemoryFull
        | Code::OutcomeUnknown => Exit::Unknown,
    }
}

fn config_hint(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::NoUrl => "pass --url http://127.0.0.1:8080, set INSIDB_URL, or run `insic login --url URL` once",
        ConfigError::NoAdminUrl => {
            "pass --admin-url http://127.0.0.1:8081, set INSIDB_ADMIN_URL, or save it with `insic login`"
        }
        ConfigError::Url(_) => "check --url, --admin-url, INSIDB_URL, INSIDB_ADMIN_URL, or run `insic login` again",
        ConfigError::Key => "check --key, INSIDB_API_KEY, or run `insic login` again",
        ConfigError::CaCertificate(_) => "--ca takes a file of PEM certificates",
        ConfigError::Start(_) => "does this machine have CA certificates? --ca FILE names some",
    }
}

/// What to do about a refusal; `wait_seconds` is how long the server asks to wait.
pub(crate) fn code_hint(code: Code, wait_seconds: u64) -> Option<String> {
    let hint = match code {
        Code::Unauthorized => {
            "check --key, INSIDB_API_KEY, or run `insic login` again; `keys`, and `limits` for a key, need the root key"
        }
        Code::AddressForbidden => "this machine's address is not among the node's permitted_ips",
        Code::DiskQuotaExceeded | Code::MemoryQuotaExceeded => {
            "delete what is not needed, or have the limit raised: `insic limits set`"
        }
        Code::TooManyAliases => "delete one that is not needed: `insic alias list`, `insic alias delete`",
        Code::ApiKeyNotFound => "keys are named by their UUID, or by themselves: `insic keys list` shows the UUIDs",
        Code::AliasCannotCreate => "use the key that this alias belongs to",
        Code::RouteNotFound | Code::MethodNotAllowed => {
            "is this the right listener? Commands on keys need --admin-url, all others --url"
        }
        Code::RateLimited | Code::AddressRateLimited => return Some(format!("try again in {wait_seconds} s")),
        Code::NoLeader | Code::LeaderElsewhere | Code::NoQuorum | Code::Overloaded => {
            return Some(format!("nothing was done; try again in {wait_seconds} s"));
        }
        Code::DiskFull | Code::MemoryFull => "nothing was done; the service's operator has to make room",
        Code::HeadTimeout | Code::BodyTimeout => "nothing was done: the connection is slow, try again",
        Code::KeyTooLarge | Code::ValueTooLarge => {
            "nothing was done; `max_value_size` in the node's configuration bounds keys and values"
        }
        Code::Internal => "the server's log says more",
        Code::MalformedBody
        | Code::MalformedRequest
        | Code::InvalidParameter
        | Code::KeyEmpty
        | Code::NotAnInteger
        | Code::SumOutOfRange
        | Code::Forbidden
        | Code::KeyNotFound
        | Code::KeyExists
        | Code::ValueDiffers
        | Code::UrlTooLong
        | Code::EncodedBody
        | Code::HeadersTooLarge
        | Code::ClusterChangeRefused
        | Code::OutcomeUnknown => return None,
    };
    Some(hint.to_owned())
}
