//! `insic ping`.

use clap::Args;
use insidb_client::response;

use crate::failure::{Exit, Failure};
use crate::session::Session;

#[derive(Args)]
pub(crate) struct Command {}

pub(crate) async fn run(Command {}: Command, session: &mut Session) -> Result<Exit, Failure> {
    let ping = session.settings.client(&mut session.stdin)?.ping().await?;
    if session.out.json {
        session.out.json(&ping)?;
    } else {
        let response::Ping { status, entity, node, leader, uptime } = ping;
        let leader = if leader.is_empty() { "unknown" } else { &leader };
        session.out.line(&format!("{status}: {entity} on node {node}, up {uptime}; the leader is {leader}"))?;
    }
    Ok(Exit::Done)
}
