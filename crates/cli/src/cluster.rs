//! `insic cluster`: the nodes, and changes of them.

use clap::Subcommand;
use insidb_client::response::{Cluster, ClusterMember, Role};

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::session::Session;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show every node: role, term, how far it has come, when it was last heard
    Status,
    /// Take a node into the cluster that runs and listens for its peers at this address
    Add {
        /// The node's peer address, as host:port
        address: String,
    },
    /// Remove a node for good, also one that is gone
    Remove {
        /// The node's id, or its beginning
        node: String,
    },
    /// Hand the leadership over
    Transfer {
        /// The node that shall lead, or the beginning of its id; without it, whichever has come furthest
        node: Option<String>,
    },
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let admin = session.settings.client(&mut session.stdin)?.admin();
    let out = &mut session.out;
    match command {
        Command::Status => print(&admin.cluster().await?, out)?,
        Command::Add { address } => {
            admin.add_node(address).await?;
            out.ok()?;
        }
        Command::Remove { node } => {
            let node = whole(&admin.cluster().await?, &node)?;
            admin.remove_node(node).await?;
            out.ok()?;
        }
        Command::Transfer { node } => {
            let node = match node {
                Some(node) => Some(whole(&admin.cluster().await?, &node)?),
                None => None,
            };
            admin.transfer_leadership(node).await?;
            out.ok()?;
        }
    }
    Ok(Exit::Done)
}

/// The one node whose id begins so.
fn whole(cluster: &Cluster, beginning: &str) -> Result<String, Failure> {
    let mut found = cluster.nodes.iter().filter(|node| node.node.starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node.node.clone()),
        (None, _) => Err(Failure::usage("no node of the cluster has this id", "`insic cluster status` lists them")),
        (Some(_), Some(_)) => {
            Err(Failure::usage("several nodes' ids begin so", "give more of it: `insic cluster status` lists them"))
        }
    }
}

fn print(cluster: &Cluster, out: &mut Output) -> std::io::Result<()> {
    if out.json {
        return out.json(cluster);
    }
    let mut rows = Vec::new();
    for node in &cluster.nodes {
        rows.push(row(&node.node, &node.address, "values", &node.values, node.reachable));
        match &node.cache {
            Some(cache) => rows.push(row("", "", &format!("cache {}", cache.generation), cache, node.reachable)),
            None => rows.push(["", "", "cache", "none", "", "", "", "", ""].map(str::to_owned)),
        }
    }
    out.table(["NODE", "ADDRESS", "GROUP", "ROLE", "TERM", "LAST", "APPLIED", "LAG", "HEARD"], rows)
}

fn row(node: &str, address: &str, group: &str, member: &ClusterMember, is_reachable: bool) -> [String; 9] {
    let role = match member.role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
    };
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let heard = match member.last_contact_ms {
        _ if !is_reachable => "does not answer".to_owned(),
        Some(age_ms) => format!("{age_ms} ms ago"),
        None => "-".to_owned(),
    };
    [
        node.to_owned(),
        address.to_owned(),
        group.to_owned(),
        role.to_owned(),
        number(member.term),
        number(member.last_index),
        number(member.applied_index),
        number(member.lag),
        heard,
    ]
}
