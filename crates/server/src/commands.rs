//! One file per command.

mod addresses;
mod certificates;
mod check_config;
mod dev;
mod dev_cluster;
mod init;
mod root_key;
mod run;

pub(crate) use check_config::check_config;
pub(crate) use dev::dev;
pub(crate) use init::init;
pub(crate) use root_key::root_key;
pub(crate) use run::run;

/// Why a command ended without success: decides the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or configuration: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Other(anyhow::Error),
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Other(_) => 1,
        }
    }

    /// One plain line: what happened, and where.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Usage(message) => message.clone(),
            Self::Other(error) => format!("{error:#}").replace('\n', " "),
        }
    }
}
