//! The command line of `insid`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// InsiDB, a self-hosted multi-tenant key-value service: the server.
#[derive(Debug, Parser)]
#[command(name = "insid", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node with nothing to set up, for trying and for developing
    Dev(Dev),
    /// Run a node from a configuration file
    Run(Run),
    /// Write a configuration file and an instance secret, ready to run
    Init(Init),
    /// Check a configuration file, and print the settings that it brings
    CheckConfig(CheckConfig),
    /// Print the root key, which follows from the instance secret
    RootKey(RootKey),
}

/// `insid dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where the node keeps everything
    #[arg(long, value_name = "DIR", default_value = "insidb-data")]
    pub(crate) data_dir: PathBuf,
    /// Where requests are taken; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) public: SocketAddr,
    /// Where operators' requests are taken; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub(crate) private: SocketAddr,
}

/// `insid run`. Its flags win over the environment, and that over the file.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where the node keeps everything
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Where tenants' requests are taken
    #[arg(long, value_name = "ADDR")]
    pub(crate) public: Option<String>,
    /// Where operators' requests are taken
    #[arg(long, value_name = "ADDR")]
    pub(crate) private: Option<String>,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// `insid init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The directory to make, with everything in it
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where tenants' requests will be taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) public: SocketAddr,
    /// Where operators' requests will be taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub(crate) private: SocketAddr,
    /// Make a self-signed certificate for these names and addresses, and serve HTTPS with it on both listeners
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub(crate) certificate_for: Vec<String>,
}

/// `insid check-config`.
#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// The configuration file (TOML)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `insid root-key`.
#[derive(Debug, Args)]
pub(crate) struct RootKey {
    /// The configuration file (TOML), which names the secret's file; the environment's secret wins over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}
