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
    /// Run one node, or a small cluster, with nothing to set up, for trying and for developing
    Dev(Dev),
    /// Run a node from a configuration file
    Run(Run),
    /// Write the configuration of one node, or of a cluster's, and an instance secret, ready to run
    Init(Init),
    /// Check a configuration file, and print the settings that it brings
    CheckConfig(CheckConfig),
    /// Print the root key, which follows from the instance secret
    RootKey(RootKey),
}

/// `insid dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "insidb-data")]
    pub(crate) data_dir: PathBuf,
    /// How many nodes: each a process of its own, which is started again when it is killed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub(crate) nodes: u16,
    /// Where requests are taken; port 0 picks a free one. Further nodes take the ports behind
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) public: SocketAddr,
    /// Where operators' requests are taken; port 0 picks a free one. Further nodes take the ports behind
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
    /// Stop in order when standard input ends: whoever started the node is gone
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// `insid init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The directory to make, with everything in it
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// How many nodes the cluster has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub(crate) nodes: u16,
    /// The name or address of each node's machine, once for each node; without it all nodes are on this machine
    #[arg(long, value_name = "HOST", num_args = 1.., value_delimiter = ',')]
    pub(crate) host: Vec<String>,
    /// Where tenants' requests will be taken [default: 127.0.0.1:8080, with --host 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) public: Option<SocketAddr>,
    /// Where operators' requests will be taken [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) private: Option<SocketAddr>,
    /// Make an authority and a certificate for each node, and have the nodes speak mutual TLS among themselves
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
