//! `insid dev --nodes N`: a cluster of real processes on one machine, for trying failover.
//!
//! ```text
//! DIR/cluster.json     every node's addresses: chosen once, so that a restarted node is found again
//! DIR/instance_secret  what the root key follows from
//! DIR/root.key
//! DIR/node1/           a node's configuration and its data, and so on
//! ```
//!
//! 1. The first start makes node 1's data directory with the permission to found the cluster, and then `cluster.json`,
//!    which says for good that this was done: a node whose directory is missing later is a new member and joins, node 1
//!    like any other.
//! 2. [`Supervisor`] starts a process for each node, passes on what they log, and says what becomes of them.
//! 3. SIGTERM and SIGINT stop the nodes in order, a second one kills them. SIGUSR1 starts again what has ended.

mod process;
mod supervisor;
mod watch;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use consensus::env::System;
use serde::{Deserialize, Serialize};

use self::supervisor::Supervisor;
use super::{
    Failure,
    addresses::{NodeAddresses, one_after_another},
    init::{CONFIG_FILE, PRIVATE, PUBLIC},
};
use crate::{
    cli::Dev,
    config::{Config, Environment},
    node::data_dir::{self, DataDir, create_private_dir, write_durably},
    secret::{self, InstanceSecret},
    server,
};

/// The file that makes a directory a cluster's.
const CLUSTER_FILE: &str = "cluster.json";
/// The format of that file.
const FORMAT: u32 = 1;

/// What `cluster.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    format: u32,
    nodes: Vec<NodeAddresses>,
}

/// Runs until a signal ends it.
pub(crate) fn run(arguments: &Dev, environment: &Environment) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.data_dir).context("cannot find the data directory")?;
    if DataDir::exists(&dir) {
        return Err(Failure::Usage(format!(
            "{} holds a single node, made by `insid dev` without --nodes: choose another directory with --data-dir",
            dir.display()
        )));
    }
    create_private_dir(&dir)?;
    let lock = data_dir::lock(&dir)?;
    let plan = plan(&dir, arguments)?;
    let secret = match environment.get(secret::VARIABLE) {
        Some(text) => InstanceSecret::new(text)?,
        None => InstanceSecret::read_or_make(&dir, &System::new())?,
    };
    let root_key = secret.root_key();
    write_durably(&dir, secret::ROOT_KEY_FILE, root_key.as_bytes())?;
    let cluster = Cluster { dir, nodes: plan.nodes, root_key, _lock: lock };
    supervise(cluster, environment, arguments.log_level.as_deref())?;
    Ok(())
}

/// Refuses a directory of several nodes to a start of one.
pub(crate) fn refuse_cluster(dir: &Path) -> Result<(), Failure> {
    if !dir.join(CLUSTER_FILE).exists() {
        return Ok(());
    }
    let count = read_plan(dir)?.map_or(0, |plan| plan.nodes.len());
    Err(Failure::Usage(format!(
        "{} holds a cluster of {count} nodes: start it with --nodes {count}, or choose another directory with --data-dir",
        dir.display()
    )))
}

fn supervise(cluster: Cluster, environment: &Environment, log_level: Option<&str>) -> anyhow::Result<()> {
    let count = cluster.nodes.len();
    if count.is_multiple_of(2) {
        process::say(&format!(
            "{count} nodes go on when {} of them fail, as {} would: take an odd number, 3 to see failover",
            count / 2 - 1,
            count - 1
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(Supervisor::new(cluster, environment, log_level).run())
}

/// The cluster that lies in a directory.
struct Cluster {
    dir: PathBuf,
    nodes: Vec<NodeAddresses>,
    root_key: String,
    _lock: File,
}

impl Cluster {
    /// A node's directory; nodes count from 1.
    fn node_dir(&self, number: usize) -> PathBuf {
        node_dir(&self.dir, number)
    }

    /// Writes a node's configuration where it is missing: what somebody changed in it stays.
    fn configure(&self, number: usize) -> anyhow::Result<()> {
        let dir = self.node_dir(number);
        if dir.join(CONFIG_FILE).exists() {
            return Ok(());
        }
        let node = &self.nodes[number - 1];
        let config = Config {
            data_dir: ".".into(),
            public_address: node.public,
            private_address: node.private,
            peer_address: Some(node.peer),
            join: self.nodes.iter().map(|node| node.peer.to_string()).collect(),
            instance_secret_file: Some(Path::new("..").join(secret::SECRET_FILE)),
            ..Config::default()
        };
        create_private_dir(&dir)?;
        write_durably(&dir, CONFIG_FILE, config.to_toml().as_bytes())
    }
}

fn node_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node{number}"))
}

/// The cluster's nodes: as the directory has them, or made now.
fn plan(dir: &Path, arguments: &Dev) -> Result<Plan, Failure> {
    let count = arguments.nodes;
    if let Some(plan) = read_plan(dir)? {
        check(&plan, dir, arguments)?;
        return Ok(plan);
    }
    let first = node_dir(dir, 1);
    let used = (1..=usize::from(count)).map(|number| node_dir(dir, number)).find(|node| {
        // A first start that was cut off has left node 1 as it was made.
        DataDir::exists(node) && !(*node == first && DataDir::is_unfounded(node))
    });
    if let Some(used) = used {
        return Err(Failure::Usage(format!(
            "{} is a node's data directory, but {CLUSTER_FILE} above it is missing: restore it, or choose another \
             directory with --data-dir",
            used.display()
        )));
    }
    let env = System::new();
    let (public, private) = (arguments.public.unwrap_or(PUBLIC), arguments.private.unwrap_or(PRIVATE));
    let plan = Plan { format: FORMAT, nodes: one_after_another(public, private, count, &env)? };
    if !DataDir::exists(&first) {
        server::create_data_dir(&first, &env)?;
    }
    let json = serde_json::to_vec_pretty(&plan).context("encoding the nodes' addresses")?;
    write_durably(dir, CLUSTER_FILE, &json)?;
    Ok(plan)
}

fn read_plan(dir: &Path) -> anyhow::Result<Option<Plan>> {
    let path = dir.join(CLUSTER_FILE);
    let shown = path.display();
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let Ok(plan) = serde_json::from_slice::<Plan>(&json) else {
        bail!("{shown} is damaged, or another program's: restore it, or choose another directory with --data-dir")
    };
    ensure!(plan.format == FORMAT, "{shown} has format {}; this program reads format {FORMAT}", plan.format);
    ensure!(!plan.nodes.is_empty(), "{shown} names no node");
    Ok(Some(plan))
}

/// The nodes and their ports are chosen once; asking for others is refused.
fn check(plan: &Plan, dir: &Path, arguments: &Dev) -> Result<(), Failure> {
    let found = plan.nodes.len();
    if usize::from(arguments.nodes) != found {
        return Err(Failure::Usage(format!(
            "{} holds a cluster of {found} nodes: start it with --nodes {found}, or choose another directory with \
             --data-dir",
            dir.display()
        )));
    }
    let first = &plan.nodes[0];
    for (flag, asked, kept) in
        [("--public", arguments.public, first.public), ("--private", arguments.private, first.private)]
    {
        if asked.is_some_and(|asked| asked != kept && asked.port() != 0) {
            return Err(Failure::Usage(format!(
                "the cluster in {} keeps the address {kept}: leave {flag} out, or choose another directory with --data-dir",
                dir.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn arguments(dir: &Path, nodes: u16, public: Option<&str>) -> Dev {
        let public = public.map(|address| address.parse().unwrap());
        let private = Some("127.0.0.1:0".parse().unwrap());
        Dev { data_dir: dir.to_owned(), nodes, public, private, log_level: None }
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().line()
    }

    #[test]
    fn addresses_are_chosen_once_and_only_the_first_start_may_found() {
        let dir = tempfile::tempdir().unwrap();
        let made = plan(dir.path(), &arguments(dir.path(), 3, Some("127.0.0.1:0"))).unwrap();
        assert!(DataDir::is_unfounded(&node_dir(dir.path(), 1)));
        assert!(!DataDir::exists(&node_dir(dir.path(), 2)));
        // Node 1's directory is lost: nothing gives another one the permission to found.
        std::fs::remove_dir_all(node_dir(dir.path(), 1)).unwrap();
        for public in [None, Some("127.0.0.1:0"), Some(made.nodes[0].public.to_string().as_str())] {
            assert_eq!(plan(dir.path(), &arguments(dir.path(), 3, public)).unwrap(), made);
        }
        assert!(!DataDir::exists(&node_dir(dir.path(), 1)));
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        server::create_data_dir(&node_dir(dir.path(), 1), &System::new()).unwrap();
        plan(dir.path(), &arguments(dir.path(), 3, Some("127.0.0.1:0"))).unwrap();
        // But not one that has founded, and whose plan is gone.
        DataDir::open(&node_dir(dir.path(), 1)).unwrap().consume_marker().unwrap();
        std::fs::remove_file(dir.path().join(CLUSTER_FILE)).unwrap();
        let said = refusal(plan(dir.path(), &arguments(dir.path(), 3, Some("127.0.0.1:0"))));
        assert!(said.contains("cluster.json above it is missing"), "{said}");
    }

    #[test]
    fn what_does_not_fit_the_directory_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        plan(dir.path(), &arguments(dir.path(), 3, Some("127.0.0.1:0"))).unwrap();
        let said = refusal(plan(dir.path(), &arguments(dir.path(), 5, None)));
        assert!(said.contains("holds a cluster of 3 nodes: start it with --nodes 3"), "{said}");
        let said = refusal(plan(dir.path(), &arguments(dir.path(), 3, Some("127.0.0.1:9"))));
        assert!(said.contains("leave --public out"), "{said}");
        let said = refusal(refuse_cluster(dir.path()));
        assert!(said.contains("holds a cluster of 3 nodes: start it with --nodes 3"), "{said}");
        std::fs::write(dir.path().join(CLUSTER_FILE), "{").unwrap();
        let said = refusal(plan(dir.path(), &arguments(dir.path(), 3, None)));
        assert!(said.contains("is damaged"), "{said}");
    }
}
