//! get, set, setnx, cas, delete, ls on either store, and bump on values.

use clap::{Args, Subcommand};
use insidb_client::{Answer, Code, Keyspace, Store};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::session::Session;

/// What both stores do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print the value of a key
    Get {
        /// The key
        key: String,
        /// Take what the node has at once, even if it is behind the leader by up to its lease of three seconds
        #[arg(long)]
        stale: bool,
    },

    /// Set a key to a value
    Set {
        /// The key
        key: String,
        /// The value; `-` reads it from standard input, byte for byte
        #[arg(allow_negative_numbers = true)]
        value: String,
    },

    /// Set a key to a value if the key does not exist
    Setnx {
        /// The key
        key: String,
        /// The value; `-` reads it from standard input, byte for byte
        #[arg(allow_negative_numbers = true)]
        value: String,
    },

    /// Set a key to a new value if it has the old one
    Cas {
        /// The key
        key: String,
        /// The value that it must have; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        old: String,
        /// The value that it shall have; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        new: String,
    },

    /// Delete a key, if it exists
    Delete {
        /// The key
        key: String,
    },

    /// List keys in byte order, one a line
    Ls(List),
}

/// What the durable store does.
#[derive(Subcommand)]
pub(crate) enum ValueCommand {
    #[command(flatten)]
    Common(Command),

    /// Add to the integer that a key holds, and print the sum
    ///
    /// A key that does not exist counts as 0, and a sum below 0 is stored as 0.
    Bump {
        /// The key
        key: String,
        /// What to add
        #[arg(allow_negative_numbers = true, default_value_t = 1)]
        delta: i64,
    },
}

/// How many keys are listed when nobody says.
const KEYS_LISTED: u64 = 100;

#[derive(Args)]
pub(crate) struct List {
    /// What the keys begin with; only the root key may leave it out
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// The most keys to list [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Start behind this key
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// List all of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// An answer as `--json` prints it.
#[derive(Serialize)]
struct Report<T> {
    #[serde(flatten)]
    payload: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_ms: Option<u128>,
}

impl<T> From<Answer<T>> for Report<T> {
    fn from(answer: Answer<T>) -> Self {
        Self {
            revision: answer.revision,
            cache_generation: answer.cache_generation,
            staleness_ms: answer.staleness.map(|age| age.as_millis()),
            payload: answer.value,
        }
    }
}

/// The payload of get and bump: as in the HTTP API, `null` when there is none.
#[derive(Serialize)]
struct Data {
    data: Option<String>,
}

/// The payload of a write: whether it was done.
#[derive(Serialize)]
struct Done {
    done: bool,
}

pub(crate) async fn run_values(command: ValueCommand, session: &mut Session) -> Result<Exit, Failure> {
    let values = session.settings.client(&mut session.stdin)?.values();
    match command {
        ValueCommand::Common(command) => run(command, &values, session).await,
        ValueCommand::Bump { key, delta } => {
            let answer = values.bump(&key, delta).await?;
            if session.out.json {
                let answer = answer.map(|sum| Data { data: Some(sum.to_string()) });
                session.out.json(&Report::from(answer))?;
            } else {
                session.out.line(&answer.value.to_string())?;
            }
            Ok(Exit::Done)
        }
    }
}

pub(crate) async fn run_cache(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let cache = session.settings.client(&mut session.stdin)?.cache();
    run(command, &cache, session).await
}

async fn run<S: Keyspace>(command: Command, store: &Store<S>, session: &mut Session) -> Result<Exit, Failure> {
    let Session { stdin, out, .. } = session;
    match command {
        Command::Get { key, stale } => {
            let store = if stale { store.clone().stale() } else { store.clone() };
            print_value(store.get(&key).await?, out)
        }
        Command::Set { key, value } => {
            let answer = store.set(&key, &stdin.value(value)?).await?;
            print_done(answer.map(|()| true), "", out)
        }
        Command::Setnx { key, value } => {
            let answer = store.setnx(&key, &stdin.value(value)?).await?;
            print_done(answer, "the key exists; nothing was changed", out)
        }
        Command::Cas { key, old, new } => {
            let (old, new) = (stdin.value(old)?, stdin.value(new)?);
            let answer = store.cas(&key, &old, &new).await?;
            print_done(answer, "the key has another value, or none; nothing was changed", out)
        }
        Command::Delete { key } => {
            let answer = store.delete(&key).await?;
            print_done(answer.map(|()| true), "", out)
        }
        Command::Ls(list) => print_keys(list, store, out).await,
    }
}

fn print_value(answer: Answer<Option<String>>, out: &mut Output) -> Result<Exit, Failure> {
    let exit = if answer.value.is_some() { Exit::Done } else { Exit::Negative };
    if out.json {
        out.json(&Report::from(answer.map(|data| Data { data })))?;
    } else {
        match answer.value {
            Some(value) => out.value(&value)?,
            None => out.remark("no such key")?,
        }
    }
    Ok(exit)
}

fn print_done(answer: Answer<bool>, otherwise: &str, out: &mut Output) -> Result<Exit, Failure> {
    let exit = if answer.value { Exit::Done } else { Exit::Negative };
    if out.json {
        out.json(&Report::from(answer.map(|done| Done { done })))?;
    } else if !answer.value {
        out.remark(otherwise)?;
    }
    Ok(exit)
}

/// Prints key by key, so that memory holds one page however many there are.
async fn print_keys<S: Keyspace>(list: List, store: &Store<S>, out: &mut Output) -> Result<Exit, Failure> {
    let keys_max = if list.all { u64::MAX } else { list.limit.unwrap_or(KEYS_LISTED) };
    let mut cursor = store.keys(&list.prefix).page_keys(keys_max);
    if let Some(key) = list.after {
        cursor = cursor.after(key);
    }
    let mut printed = 0;
    while printed < keys_max
        && let Some(key) = cursor.next().await.map_err(|error| match error.code() {
            Some(Code::InvalidParameter) if list.prefix.is_empty() => {
                Failure::usage(error, "name a prefix: `insic ls PREFIX`. Only the root key may leave it out")
            }
            _ => error.into(),
        })?
    {
        match (out.json, printed) {
            (false, _) => out.key(&key)?,
            (true, 0) => out.json_part("[", &key)?,
            (true, _) => out.json_part(",", &key)?,
        }
        printed += 1;
    }
    match (out.json, printed) {
        (true, 0) => out.line("[]")?,
        (true, _) => out.line("]")?,
        (false, _) => {}
    }
    if printed == keys_max {
        let remark = "there may be more: --after the last key, or --all";
        // Whoever asked for so many knows it, and others must not take these for all.
        if list.limit.is_some() { out.terminal_remark(remark)? } else { out.notice(remark)? }
    }
    Ok(Exit::Done)
}
