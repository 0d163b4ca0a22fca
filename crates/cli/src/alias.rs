//! `insic alias`: further API keys for the scope of the one in use.

use clap::Subcommand;
use insidb_client::response;

use crate::failure::{Exit, Failure};
use crate::session::Session;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an alias, and print it this once
    Create,

    /// Delete an alias; it ends at once
    Delete {
        /// The alias's id, or the alias itself; `-` reads it from standard input
        #[arg(value_name = "ID|ALIAS")]
        alias: String,
    },

    /// List the ids of all aliases, one a line
    List,
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.settings.client(&mut session.stdin)?;
    let Session { stdin, out, .. } = session;
    match command {
        Command::Create => {
            let alias = client.create_alias().await?;
            if out.json {
                out.json(&response::Alias { alias })?;
            } else {
                out.line(&alias)?;
                out.remark("The alias is shown this once: keep it now.")?;
            }
        }
        Command::Delete { alias } => {
            client.delete_alias(stdin.secret(alias)?).await?;
            out.ok()?;
        }
        Command::List => {
            let aliases = client.aliases().await?;
            if out.json {
                out.json(&response::Aliases { aliases })?;
            } else {
                aliases.iter().try_for_each(|alias| out.line(alias))?;
            }
        }
    }
    Ok(Exit::Done)
}
