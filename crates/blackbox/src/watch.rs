//! What operators see: who leads, and whether the cluster is whole.

use std::time::{Duration, Instant};

use insidb_client::{
    Client,
    response::{Cluster, ClusterNode, Role as Rank},
};

use crate::{
    cluster::{Addresses, NODES},
    schedule::Role,
};

/// How long one look may take.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause between two looks.
const PACE: Duration = Duration::from_millis(50);

/// A client of one node with this key that sends every request once.
pub(crate) fn client(node: Addresses, key: &str, wait_max: Duration) -> anyhow::Result<Client> {
    Ok(Client::builder()
        .url(format!("http://{}", node.public))
        .admin_url(format!("http://{}", node.private))
        .key(key)
        .timeout(wait_max)
        .connect_timeout(Duration::from_secs(2))
        .tries_max(1)
        .build()?)
}

/// Looks at the nodes with the root key.
pub(crate) struct Watch {
    nodes: Vec<Addresses>,
    pub(crate) clients: Vec<Client>,
}

impl Watch {
    pub(crate) fn new(nodes: &[Addresses], root_key: &str) -> anyhow::Result<Self> {
        let clients = nodes.iter().map(|node| client(*node, root_key, LOOK_WAIT_MAX)).collect::<Result<_, _>>()?;
        Ok(Self { nodes: nodes.to_vec(), clients })
    }

    /// Whether a node says that it is ready.
    pub(crate) async fn is_ready(&self, number: usize) -> bool {
        self.clients[number].admin().is_ready().await.unwrap_or(false)
    }

    /// The cluster, as the first node sees it that knows both leaders.
    async fn settled(&self) -> Option<Cluster> {
        for client in &self.clients {
            match client.admin().cluster().await {
                Ok(cluster) if cluster.leader.is_some() && cluster.cache_leader.is_some() => return Some(cluster),
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    fn number(&self, cluster: &Cluster, node: &str) -> Option<usize> {
        let found = cluster.nodes.iter().find(|it| it.node == node)?;
        self.nodes.iter().position(|it| it.peer.to_string() == found.address)
    }

    /// Who has this role now; the first node when nobody knows.
    pub(crate) async fn place(&self, role: Role) -> usize {
        let Some(cluster) = self.settled().await else { return 0 };
        let leads = |id: &Option<String>| id.as_ref().and_then(|id| self.number(&cluster, id));
        let (leader, cache_leader) = (leads(&cluster.leader), leads(&cluster.cache_leader));
        let found = match role {
            Role::Leader => leader,
            Role::CacheLeader => cache_leader,
            Role::Follower => (0..NODES)
                .find(|number| Some(*number) != leader && Some(*number) != cache_leader)
                .or_else(|| (0..NODES).find(|number| Some(*number) != leader)),
        };
        found.unwrap_or(0)
    }

    /// The id of a node, as the cluster knows it.
    pub(crate) async fn id(&self, number: usize) -> Option<String> {
        let cluster = self.settled().await?;
        cluster.nodes.iter().find(|it| it.address == self.nodes[number].peer.to_string()).map(|it| it.node.clone())
    }

    /// The generation of the Cache, when all nodes are ready, and voters of both groups by the word of each of them; else
    /// what is missing.
    pub(crate) async fn whole(&self) -> Result<u64, String> {
        let mut generations = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            if !self.is_ready(number).await {
                return Err(format!("node {number} is not ready"));
            }
            let cluster = client.admin().cluster().await.map_err(|error| format!("node {number}: {error}"))?;
            let votes = |node: &ClusterNode| {
                let ranks = [Some(node.values.role), node.cache.as_ref().map(|cache| cache.role)];
                node.reachable && ranks.iter().all(|rank| matches!(rank, Some(Rank::Leader | Rank::Voter)))
            };
            if cluster.nodes.len() != NODES || !cluster.nodes.iter().all(votes) {
                return Err(format!("node {number} sees {:?}", cluster.nodes));
            }
            generations.push(cluster.cache_generation);
        }
        let newest = generations[0];
        generations.iter().all(|it| *it == newest).then_some(newest).ok_or(format!("generations {generations:?}"))
    }

    /// Waits until the cluster is whole; what is missing when it does not become so in time.
    pub(crate) async fn await_whole(&self, wait_max: Duration) -> Result<u64, String> {
        let deadline = Instant::now() + wait_max;
        loop {
            match self.whole().await {
                Ok(generation) => return Ok(generation),
                Err(missing) if Instant::now() > deadline => return Err(missing),
                Err(_) => tokio::time::sleep(PACE).await,
            }
        }
    }

    /// Waits until all members of both groups have applied the same; the cluster as it is then, or in the end.
    pub(crate) async fn await_level(&self, wait_max: Duration) -> Option<Cluster> {
        let deadline = Instant::now() + wait_max;
        loop {
            let cluster = self.settled().await;
            let is_level = cluster.as_ref().is_some_and(|cluster| {
                let applied = |node: &ClusterNode| {
                    (node.values.applied_index, node.cache.as_ref().and_then(|cache| cache.applied_index))
                };
                let first = cluster.nodes.first().map(applied);
                first.is_some_and(|(values, cache)| values.is_some() && cache.is_some())
                    && cluster.nodes.iter().all(|node| Some(applied(node)) == first)
            });
            if is_level || Instant::now() > deadline {
                return cluster;
            }
            tokio::time::sleep(PACE).await;
        }
    }
}
