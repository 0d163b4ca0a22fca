//! `insic keys`: API keys, for operators.

use clap::{Args, Subcommand};
use insidb_client::{ApiKey, Client, response};

use crate::failure::{Exit, Failure};
use crate::input::Stdin;
use crate::output::Output;
use crate::session::Session;
use crate::size;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an API key with a data scope of its own, and print it this once
    Create {
        /// Its name; names need not be unique
        name: String,
        /// When it stops being valid, as RFC 3339: 2030-12-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },

    /// Delete an API key, its aliases and all its data
    Delete(Which),

    /// List all API keys
    List,

    /// Show one API key
    Show(Show),
}

/// Names an API key.
#[derive(Args)]
pub(crate) struct Which {
    /// The API key's UUID, or the key itself; `-` reads it from standard input
    #[arg(value_name = "UUID|KEY")]
    key: String,
}

#[derive(Args)]
pub(crate) struct Show {
    /// The API key's UUID, or the key itself; `-` reads it from standard input
    #[arg(value_name = "UUID|KEY", required_unless_present = "alias")]
    key: Option<String>,
    /// An alias of the key, or the alias's id
    #[arg(long, conflicts_with = "key")]
    alias: Option<String>,
}

impl Which {
    pub(crate) fn resolve(self, stdin: &mut Stdin) -> Result<ApiKey, Failure> {
        named(self.key, stdin)
    }
}

pub(crate) fn named(key: String, stdin: &mut Stdin) -> Result<ApiKey, Failure> {
    let text = stdin.secret(key)?;
    Ok(if is_uuid(&text) { ApiKey::Uuid(text) } else { ApiKey::Text(text) })
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.settings.client(&mut session.stdin)?;
    let Session { stdin, out, .. } = session;
    match command {
        Command::Create { name, expires_at } => {
            let created = client.admin().create_key(name, expires_at).await?;
            print_created(&created, out)?;
        }
        Command::Delete(which) => {
            client.admin().delete_key(which.resolve(stdin)?).await?;
            out.ok()?;
        }
        Command::List => print_list(&all(&client).await?, out)?,
        Command::Show(Show { alias: Some(alias), .. }) => {
            let entity = client.admin().entity_by_alias(stdin.secret(alias)?).await?;
            print_one(&entity, out)?;
        }
        Command::Show(Show { key, alias: None }) => {
            let key = named(key.expect("required without an alias"), stdin)?;
            print_one(&client.admin().entity(key).await?, out)?;
        }
    }
    Ok(Exit::Done)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

async fn all(client: &Client) -> Result<Vec<response::Entity>, Failure> {
    const PAGE: u64 = 1000;
    let mut entities = Vec::new();
    loop {
        let page = client.admin().entities(entities.len() as u64, Some(PAGE)).await?;
        let is_last = (page.len() as u64) < PAGE;
        entities.extend(page);
        if is_last {
            return Ok(entities);
        }
    }
}

fn print_created(created: &response::CreatedKey, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(created)?);
    }
    out.line(&format!("name  {}", created.key_name))?;
    out.line(&format!("uuid  {}", created.key_uuid))?;
    out.line(&format!("key   {}", created.key))?;
    out.remark("The key is shown this once: keep it now.")?;
    Ok(())
}

fn print_list(entities: &[response::Entity], out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(&entities)?);
    }
    let rows = entities.iter().map(|entity| {
        let response::Limits { usage, max_limits } = &entity.usage;
        [
            entity.key_name.clone(),
            entity.key_uuid.clone(),
            of(usage.bytes_on_disk, max_limits.bytes_on_disk),
            of(usage.bytes_in_memory, max_limits.bytes_in_memory),
            limit(max_limits.rate_per_second_data_limit, |rate| rate.to_string()),
            entity.expires_at.clone().unwrap_or_else(|| "never".to_owned()),
        ]
    });
    Ok(out.table(["NAME", "UUID", "DISK", "MEMORY", "RATE/S", "EXPIRES"], rows.collect())?)
}

fn print_one(entity: &response::Entity, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(entity)?);
    }
    let response::Limits { usage, max_limits } = &entity.usage;
    let aliases = if entity.aliases.is_empty() { "none".to_owned() } else { entity.aliases.join(", ") };
    out.line(&format!("name     {}", entity.key_name))?;
    out.line(&format!("uuid     {}", entity.key_uuid))?;
    out.line(&format!("scope    {}", entity.data_scope_uuid))?;
    out.line(&format!("aliases  {aliases}"))?;
    out.line(&format!("expires  {}", entity.expires_at.as_deref().unwrap_or("never")))?;
    out.line(&format!("disk     {}", of(usage.bytes_on_disk, max_limits.bytes_on_disk)))?;
    out.line(&format!("memory   {}", of(usage.bytes_in_memory, max_limits.bytes_in_memory)))?;
    out.line(&format!("rate/s   {}", limit(max_limits.rate_per_second_data_limit, |rate| rate.to_string())))?;
    Ok(())
}

/// `1024 of 1GiB`.
fn of(used: u64, max: Option<u64>) -> String {
    format!("{} of {}", used, limit(max, size::show))
}

/// The root key has no limits.
pub(crate) fn limit(max: Option<u64>, show: impl Fn(u64) -> String) -> String {
    max.map_or_else(|| "no limit".to_owned(), show)
}
