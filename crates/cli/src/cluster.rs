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
    out.table(["NODE", "ADDRESS", "GROUP", "ROLE", "TERM", "LAST", "APPLIED", "LAG", "HEARD"], rows)?;
    let caches = cluster.nodes.iter().filter_map(|node| Some((node.cache.as_ref()?, node.reachable)));
    let groups = [
        lacks_majority("values", cluster.nodes.iter().map(|node| (&node.values, node.reachable))),
        lacks_majority("cache", caches),
    ];
    groups.into_iter().flatten().try_for_each(|remark| out.remark(&remark))
}

/// What to say of a group too few of whose voters answer: whoever led it may still call itself so.
fn lacks_majority<'a>(group: &str, members: impl Iterator<Item = (&'a ClusterMember, bool)>) -> Option<String> {
    let (mut voters, mut reachable) = (0, 0);
    for (member, is_reachable) in members {
        let votes = member.role != Role::Learner;
        voters += usize::from(votes);
        reachable += usize::from(votes && is_reachable);
    }
    (reachable * 2 <= voters)
        .then(|| format!("{group}: {reachable} of {voters} voters answer, which is no majority: nothing is served"))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_group_without_a_majority_is_told() {
        let member = |role: &str| -> ClusterMember {
            serde_json::from_value(json!({"role": role, "incarnation": 0, "generation": 0})).unwrap()
        };
        let (leader, voter, learner) = (member("leader"), member("voter"), member("learner"));
        let say = |members: &[(&ClusterMember, bool)]| lacks_majority("values", members.iter().copied());
        assert_eq!(say(&[(&leader, true), (&voter, true), (&voter, false)]), None);
        assert_eq!(say(&[(&leader, true), (&learner, false), (&learner, false)]), None);
        let told = say(&[(&leader, true), (&voter, false), (&voter, false), (&learner, true)]).unwrap();
        assert!(told.starts_with("values: 1 of 3 voters answer"), "{told}");
        assert!(say(&[(&voter, true), (&voter, false)]).is_some());
    }
}
