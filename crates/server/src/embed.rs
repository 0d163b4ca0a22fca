//! A node inside of another program, without sockets, signals and a log of its own: for the simulator, and for whoever
//! feeds requests to the HTTP contract directly.
//!
//! What a real server takes from the operating system comes in by [`World`]: the disk, time, threads and randomness, the
//! network among the nodes. What goes in and out are requests and responses, past the same layers and handlers. What lies
//! outside: the listeners with their bounds and TLS, gRPC, the configuration's sources.

use std::{net::IpAddr, net::Ipv4Addr, path::Path, sync::Arc};

use axum::{body::Body, http::Request, response::Response};
use consensus::env::Env;
use prometheus_client::metrics::counter::Counter;
use state::{
    hash::StateHash,
    ids::{NodeId, Position, ScopeId},
    query::Reader,
};
use storage::{View, fs::Disk};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    config,
    http::{
        App, caller,
        router::{Listener, Router},
    },
    node::{
        Node, PeerSide, Runtimes,
        data_dir::{DataDir, Role},
    },
    peer::Network,
    secret::InstanceSecret,
    server,
    telemetry::Metrics,
};

/// What surrounds a node.
pub struct World {
    /// Where its log and its store lie.
    pub disk: Arc<dyn Disk>,
    /// Time, threads, randomness.
    pub env: Arc<dyn Env>,
    /// The other nodes.
    pub network: Box<dyn Network>,
    /// What they call this one.
    pub address: String,
}

/// A node that runs on the runtime that it was started on, and ends with it at the latest.
pub struct Embedded {
    node: Node,
    public: Router,
    private: Router,
}

/// Where a node stands in one of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it leads, in this term.
    pub is_leader: bool,
    /// Its term.
    pub term: u64,
    /// The cache's generation; 0 for the `values` group.
    pub generation: u64,
    /// Up to where it has applied the log, and what the state hashes to there.
    pub applied: Option<(u64, StateHash)>,
}

/// What a scope takes in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The cache's generation; 0 for the Value Store.
    pub generation: u64,
    /// The term of the last entry that was applied.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// The bytes of its live keys and values.
    pub bytes: u64,
}

fn usage<V: View>(state: &Reader<V>, scope: ScopeId, generation: u64) -> Option<Usage> {
    let Position { term, index, .. } = state.applied().ok()?.position?;
    Some(Usage { generation, term, index, bytes: state.usage(scope).ok()?.bytes })
}

/// Makes the data directory of a node: the founder of a cluster, or one that joins.
///
/// # Errors
/// When it cannot be made.
pub fn create_data_dir(path: &Path, cluster_id: Uuid, node: u64, founds: bool) -> anyhow::Result<()> {
    DataDir::create(path, cluster_id, NodeId(node), if founds { Role::Founder } else { Role::Joiner })
}

/// The root key that follows from an instance secret.
///
/// # Panics
/// When the secret is empty.
pub fn root_key(secret: &str) -> String {
    InstanceSecret::new(secret).expect("a secret that is not empty").root_key()
}

impl Embedded {
    /// Starts a node with the settings of a configuration file and the instance secret. It refuses requests until it
    /// serves.
    ///
    /// # Errors
    /// When the settings are wrong, or the node does not start on what its disk holds.
    pub async fn start(settings: &str, secret: &str, world: World) -> anyhow::Result<Self> {
        let World { disk, env, network, address } = world;
        let config = config::file::parse(settings, "the settings", Path::new("/"))?;
        let secret = InstanceSecret::new(secret)?;
        let metrics = Metrics::new(env.clone(), Counter::default());
        let side = PeerSide { network, address, join: config.join.clone(), token: secret.peer_token(), tls: None };
        let public_url = format!("http://{}", side.address);
        let here = Handle::current();
        let runtimes = Runtimes { values: here.clone(), cache: here.clone(), rest: here };
        let mut options = server::node_options(&config, env.clone(), &metrics, runtimes, side, public_url);
        options.disk = disk;
        // As small as the settings say, so that a short run has many: little is written together in it.
        options.log_segment_bytes = config.log_segment_bytes;
        let node = Node::start(options).await?;
        let root_key = secret.root_key();
        let app: Arc<App> = Arc::new(server::app(&config, &node, &root_key, env, metrics));
        let (public, private) = (Router::new(app.clone(), Listener::Public), Router::new(app, Listener::Private));
        Ok(Self { node, public, private })
    }

    /// Answers a request that came to the private listener, or to the public one.
    pub async fn request(&self, is_private: bool, request: Request<Body>) -> Response {
        let router = if is_private { &self.private } else { &self.public };
        router.serve(IpAddr::V4(Ipv4Addr::LOCALHOST), request).await
    }

    /// Where the node stands in the `values` group, and in the cache group while it has a member there.
    pub fn standing(&self) -> (Standing, Option<Standing>) {
        let status = self.node.desk().status();
        let node = status.node;
        let of = |group: &crate::peer::message::GroupStatus| Standing {
            is_leader: group.leader.is_some_and(|leader| leader.node == node),
            term: group.term,
            generation: group.generation,
            applied: group.state_hash.map(|hash| (group.applied_index, hash)),
        };
        (of(&status.values), status.cache.as_ref().map(of))
    }

    /// What an API key's data take in the Value Store, and in the Cache while the node has a member there; none when the node
    /// does not know the key, or cannot read its state.
    pub fn usages(&self, key: &str) -> Option<(Usage, Option<Usage>)> {
        let values = self.node.values().local();
        let scope = values.caller(&caller::hash(key)).ok()??.entity.scope;
        let in_values = usage(&values, scope, 0)?;
        let cache = self.node.cache().load_full();
        Some((in_values, cache.and_then(|cache| usage(&cache.group.local(), scope, cache.generation))))
    }

    /// What the node knows of the cache group, for people: the registry, and its own member's view of the members.
    pub fn describe_cache(&self) -> String {
        let registry = self.node.values().local().registry();
        let members = self.node.cache().load_full().map(|cache| cache.group.members());
        format!("{registry:?}\n{members:?}")
    }

    /// What keeps the node from serving both stores, for people; none when it serves.
    pub async fn missing(&self) -> Option<String> {
        self.node.missing().await.unwrap_or_else(|fault| Some(format!("{fault:#}")))
    }

    /// Returns when the node must end by itself, with the reason.
    pub async fn fault(&self) -> String {
        self.node.end().await.to_string()
    }

    /// Stops the node in order: hands over what it leads, makes a last checkpoint, closes the log.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.node.hand_over().await;
        self.node.shutdown().await
    }
}
