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
    /// Run one node, or a cluster of them, with nothing to set up, for trying and for developing
    Dev(Dev),
    /// Run a node from a configuration file
    Run(Run),
    /// Write configuration files and an instance secret, ready to run
    Init(Init),
    /// Check a configuration file, and print the settings that it brings
    CheckConfig(CheckConfig),
    /// Print the root key, which follows from the instance secret
    RootKey(RootKey),
}

/// `insid dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where the node keeps everything; with several, each in a directory of its own below it
    #[arg(long, value_name = "DIR", default_value = "insidb-data")]
    pub(crate) data_dir: PathBuf,
    /// How many nodes: three to see failover, five and seven survive two and three failures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    pub(crate) nodes: u16,
    /// Where requests are taken; port 0 picks a free one. Further nodes take the ports behind [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) public: Option<SocketAddr>,
    /// Where operators' requests are taken; port 0 picks a free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) private: Option<SocketAddr>,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// Most nodes of one cluster that the commands set up: more make writes slower and survive no failure that matters.
const NODES_MAX: i64 = 7;

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
    /// Stop, as at SIGTERM, when standard input ends: so that a node does not outlive the program that started it
    #[arg(long)]
    pub(crate) stop_with_stdin: bool,
}

/// `insid init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The directory to make, with everything in it
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Configure so many nodes on this machine, each in a directory of its own below DIR
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=NODES_MAX), conflicts_with = "node")]
    pub(crate) nodes: Option<u16>,
    /// Configure a node for the machine with this name or address; once for each node
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub(crate) node: Vec<String>,
    /// Where tenants' requests will be taken, with --node on every machine [default: 127.0.0.1:8080; with --node 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) public: Option<SocketAddr>,
    /// Where operators' requests will be taken [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) private: Option<SocketAddr>,
    /// With --node: the port at which the nodes take one another
    #[arg(long, value_name = "PORT", default_value_t = 8082, requires = "node", conflicts_with = "nodes")]
    pub(crate) peer_port: u16,
    /// With several nodes: make an authority and a certificate for each, and have them speak mutual TLS
    #[arg(long)]
    pub(crate) peer_tls: bool,
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
