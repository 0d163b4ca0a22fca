//! `insic limits`: what a key uses and may use.

use clap::{Args, Subcommand};
use insidb_client::{request, response};

use crate::failure::{Exit, Failure};
use crate::keys::{Which, limit, named};
use crate::output::Output;
use crate::session::Session;
use crate::size;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show usage and limits: those of the API key in use, or as root those of another
    Show {
        /// The other API key's UUID, or the key itself; `-` reads it from standard input
        #[arg(value_name = "UUID|KEY")]
        key: Option<String>,
    },

    /// Set limits of an API key; those that are not given stay
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limits: Limits,
    },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Limits {
    /// The quota in the Value Store, in bytes, or as 1GiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    bytes_on_disk: Option<i64>,
    /// The quota in the Cache, in bytes, or as 250MiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    bytes_in_memory: Option<i64>,
    /// Data operations per second; 0 refuses all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    rate_per_second: Option<i64>,
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.settings.client(&mut session.stdin)?;
    let Session { stdin, out, .. } = session;
    match command {
        Command::Show { key: None } => print(&client.limits().await?, out)?,
        Command::Show { key: Some(key) } => print(&client.admin().limits(named(key, stdin)?).await?, out)?,
        Command::Set { which, limits } => {
            let patch = request::LimitsPatch {
                bytes_on_disk: limits.bytes_on_disk,
                bytes_in_memory: limits.bytes_in_memory,
                rate_per_second_data_limit: limits.rate_per_second,
            };
            client.admin().set_limits(which.resolve(stdin)?, patch).await?;
            out.ok()?;
        }
    }
    Ok(Exit::Done)
}

fn print(limits: &response::Limits, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(limits)?);
    }
    let response::Limits { usage, max_limits } = limits;
    let bytes = |name: &str, used: u64, max| [name.to_owned(), used.to_string(), limit(max, size::show)];
    let rows = vec![
        bytes("disk", usage.bytes_on_disk, max_limits.bytes_on_disk),
        bytes("memory", usage.bytes_in_memory, max_limits.bytes_in_memory),
        ["rate/s".to_owned(), "-".to_owned(), limit(max_limits.rate_per_second_data_limit, |rate| rate.to_string())],
    ];
    Ok(out.table(["", "USED", "LIMIT"], rows)?)
}
