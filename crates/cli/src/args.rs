//! What may be typed. Each command group keeps its own part beside its code.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::failure::Failure;
use crate::{alias, bench, cluster, completions, keys, limits, login, ping, store};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the expected negative: no such key, or a condition that does not hold
  2  wrong usage or settings
  3  refused: API key, permission, quota or rate limit
  4  no answer, or the outcome is unknown";

/// The command line of InsiDB, the replicated key-value service.
#[derive(Parser)]
#[command(name = "insic", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Takes the command line apart. Help, version and, for people, mistakes end the program here.
    pub(crate) fn take() -> Result<Self, Failure> {
        let error = match Self::try_parse() {
            Ok(args) => return Ok(args),
            Err(error) if !error.use_stderr() => error.exit(),
            Err(error) => error,
        };
        let secrets: Vec<String> = words().map(argument).filter(|word| is_secret(word)).collect();
        if secrets.is_empty() && !asks_for_json() {
            error.exit();
        }
        // A key in the wrong place would be quoted.
        let text = secrets.iter().fold(error.to_string(), |text, secret| text.replace(secret, "…"));
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Err(Failure::usage(message, "try `insic --help`"))
    }
}

/// Whether a command line that cannot be taken apart asks for JSON.
pub(crate) fn asks_for_json() -> bool {
    words().any(|word| word == "--json")
}

fn words() -> impl Iterator<Item = String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())
}

/// A word, or what stands behind the `=` of `--option=argument`.
fn argument(word: String) -> String {
    match word.split_once('=') {
        Some((option, argument)) if option.starts_with("--") => argument.to_owned(),
        Some(_) | None => word,
    }
}

/// Whether a word looks like an API key: `insi_…`, or the root key, base64 of 64 bytes.
fn is_secret(word: &str) -> bool {
    word.starts_with("insi_") || (word.len() == 88 && word.ends_with('='))
}

/// Options of every command.
#[derive(ClapArgs)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The URL of a node's public listener; several, given again or separated by commas, are tried in turn
    /// [env: INSIDB_URL]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) url: Vec<String>,

    /// The URL of a node's private listener, for `keys`, `limits` and `cluster`; several as with --url
    /// [env: INSIDB_ADMIN_URL]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) admin_url: Vec<String>,

    /// The API key; `-` reads it from standard input, unseen by other users [env: INSIDB_API_KEY]
    // Its own id: many a command has an argument `key`.
    #[arg(long = "key", global = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// Trust the certificates in this PEM file, and no others
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// The profile to use; what it holds wins over the environment
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Values(store::ValueCommand),

    /// Use the in-memory cache
    #[command(subcommand)]
    Cache(store::Command),

    /// Manage API keys
    #[command(subcommand)]
    Keys(keys::Command),

    /// Show and set usage limits
    #[command(subcommand)]
    Limits(limits::Command),

    /// Manage the aliases of the API key in use
    #[command(subcommand)]
    Alias(alias::Command),

    /// Look at the cluster's nodes, and change them; needs the root key and --admin-url
    #[command(subcommand)]
    Cluster(cluster::Command),

    /// Check that the service answers, and show who is asking
    Ping(ping::Command),

    Bench(Box<bench::Command>),

    /// Save a URL and an API key as a profile
    Login(login::Command),

    /// Print a shell's completion script
    Completions(completions::Command),
}
