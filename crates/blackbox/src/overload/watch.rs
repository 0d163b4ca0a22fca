//! What an operator sees meanwhile: whether the nodes say that they are alive, and who leads.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

use super::{
    nodes::Nodes,
    wire::{Connection, request},
};

/// The pause between two looks.
const PACE: Duration = Duration::from_millis(200);
/// A probe that is not answered within this time has failed.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Answers to `/livez` and to `cluster status`.
    pub answered: u64,
    /// Probes that failed, and why the last did.
    pub failed: u64,
    /// Why the last one failed.
    pub last_failure: String,
    /// How long the slowest answer took.
    pub slowest: Duration,
    /// The leaders of both groups and their terms: one, where nothing moved.
    pub leaderships: BTreeSet<String>,
    /// The most files and connections that the nodes had open together.
    pub files: usize,
}

/// Looks until it is told to stop, and once at least.
pub(super) fn watch(nodes: &Nodes, stop: &AtomicBool) -> anyhow::Result<Sight> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let mut sight = Sight::default();
        let operator = nodes.operator()?;
        loop {
            sight.files = sight.files.max(nodes.nodes.iter().map(super::nodes::Node::open_files).sum());
            for node in &nodes.nodes {
                let live = async {
                    let mut connection = Connection::open(node.private).await?;
                    connection.exchange(&request("GET", "/livez", "none", "")).await
                };
                let began = Instant::now();
                let answer = timeout(PROBE_WAIT_MAX, live).await;
                sight.saw("livez", began, answer.is_ok_and(|answer| answer.is_ok_and(|it| it.status == 200)));
            }
            let began = Instant::now();
            let cluster = timeout(PROBE_WAIT_MAX, operator.admin().cluster()).await;
            sight.saw("cluster status", began, matches!(cluster, Ok(Ok(_))));
            if let Ok(Ok(cluster)) = cluster {
                let term = |leader: &Option<String>, of_cache: bool| {
                    let node = cluster.nodes.iter().find(|node| Some(&node.node) == leader.as_ref());
                    node.and_then(|node| if of_cache { node.cache.as_ref()?.term } else { node.values.term })
                };
                let (values, cache) = (term(&cluster.leader, false), term(&cluster.cache_leader, true));
                // A look that met a busy leader tells nothing about it.
                if let (Some(values), Some(cache_term)) = (values, cache) {
                    let (leader, cache_leader) =
                        (cluster.leader.unwrap_or_default(), cluster.cache_leader.unwrap_or_default());
                    sight.leaderships.insert(format!(
                        "values: {leader} in term {values}; cache: {cache_leader} in term {cache_term}, generation {}",
                        cluster.cache_generation
                    ));
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(sight);
            }
            sleep(PACE).await;
        }
    })
}

impl Sight {
    fn saw(&mut self, what: &str, began: Instant, is_well: bool) {
        let took = began.elapsed();
        if is_well {
            self.answered += 1;
            self.slowest = self.slowest.max(took);
        } else {
            self.failed += 1;
            self.last_failure = format!("{what} after {} ms", took.as_millis());
        }
    }
}
