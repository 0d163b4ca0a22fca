//! The route table: one row per path and method. The paths of existing InsiDB clients are rows here, not code.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use api::path;
use axum::{body::Body, extract::Request, http::Method, response::Response};
use state::ids::Keyspace;

use crate::http::{App, layers};

/// Which listener serves a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// For tenants.
    Public,
    /// For operators and the cluster itself.
    Private,
}

/// What a row counts as, in rates and in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The durable store's data.
    Values,
    /// The cache's data.
    Cache,
    /// Everything else.
    System,
}

impl Class {
    /// Every class, in the order of [`Class::index`].
    pub(crate) const ALL: [Self; 3] = [Self::Values, Self::Cache, Self::System];

    /// The class's place in tables.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Values => 0,
            Self::Cache => 1,
            Self::System => 2,
        }
    }

    /// The class's name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Cache => "cache",
            Self::System => "system",
        }
    }
}

/// Who may use a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Anybody, without a key.
    Open,
    /// Every valid key.
    AnyKey,
    /// The root key alone; any other is answered like an unknown one.
    Root,
    /// The same, also of a node that has no lease, and so knows of no other key whether it is valid: what it tells is how
    /// things stand, which is asked most when the cluster does not serve.
    RootAnytime,
}

/// What the keys of an iterate look like, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IterateForm {
    /// A bare array; a prefix is required of every key but the root key.
    Plain,
    /// As existing clients of the cache know it: a bare array, no prefix means all, a trailing `*` is dropped.
    LegacyArray,
    /// As existing clients of the value store know it: the same inside `{"data":…}`.
    LegacyData,
}

/// What a row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the specification")]
pub(crate) enum Operation {
    Get(Keyspace),
    /// get with the key in the body too.
    GetByBody(Keyspace),
    Set(Keyspace),
    SetIfAbsent(Keyspace),
    CompareAndSwap(Keyspace),
    Delete(Keyspace),
    Bump,
    Iterate(Keyspace, IterateForm),
    /// iterate with its parameters in the body too.
    IterateByBody(Keyspace),
    Limits,
    Ping,
    AliasCreate,
    AliasDelete,
    AliasList,
    AdminCreate,
    AdminDelete,
    AdminLimitsSet,
    AdminLimitsGet,
    AdminEntity,
    AdminEntities,
    AdminEntityByAlias,
    AdminOps,
    ClusterStatus,
    ClusterAdd,
    ClusterRemove,
    ClusterTransfer,
    Live,
    Ready,
    Metrics,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Route {
    /// The path, as the log shows it.
    pub(crate) path: String,
    /// The method; GET rows serve HEAD too.
    pub(crate) method: Method,
    /// Where it is served.
    pub(crate) listener: Listener,
    /// What it counts as.
    pub(crate) class: Class,
    /// Who may use it.
    pub(crate) permission: Permission,
    /// What it does.
    pub(crate) operation: Operation,
}

impl Route {
    /// Whether the row serves a request with this method.
    fn serves(&self, method: &Method) -> bool {
        self.method == *method || (*method == Method::HEAD && self.has_head())
    }

    /// HEAD is GET without the body, save where GET makes something that the body alone shows.
    fn has_head(&self) -> bool {
        self.method == Method::GET && self.operation != Operation::AliasCreate
    }
}

/// The whole table.
pub(crate) fn routes() -> Vec<Route> {
    let mut routes = [store(Keyspace::Values, path::VS), store(Keyspace::Cache, path::CACHE), system()].concat();
    routes.extend(existing_clients());
    let rows = routes.into_iter().map(|(method, path, operation)| row(method, path::BASE, &path, operation));
    rows.chain(probes()).collect()
}

type Row = (Method, String, Operation);

fn store(keyspace: Keyspace, store: &str) -> Vec<Row> {
    let below = |path: &str| format!("{store}{path}");
    let mut rows = vec![
        (Method::GET, below(""), Operation::Get(keyspace)),
        (Method::POST, below(path::GET), Operation::GetByBody(keyspace)),
        (Method::POST, below(""), Operation::Set(keyspace)),
        (Method::POST, below(path::SETNX), Operation::SetIfAbsent(keyspace)),
        (Method::POST, below(path::CAS), Operation::CompareAndSwap(keyspace)),
        (Method::DELETE, below(""), Operation::Delete(keyspace)),
        (Method::GET, below(path::ITERATE), Operation::Iterate(keyspace, IterateForm::Plain)),
        (Method::POST, below(path::ITERATE), Operation::IterateByBody(keyspace)),
    ];
    if keyspace == Keyspace::Values {
        rows.push((Method::POST, below(path::BUMP), Operation::Bump));
    }
    rows
}

fn system() -> Vec<Row> {
    [
        (Method::GET, path::LIMITS, Operation::Limits),
        (Method::GET, path::PING, Operation::Ping),
        (Method::GET, path::ALIAS_SET, Operation::AliasCreate),
        (Method::POST, path::ALIAS_SET, Operation::AliasCreate),
        (Method::POST, path::ALIAS_DELETE, Operation::AliasDelete),
        (Method::GET, path::ALIAS_LIST, Operation::AliasList),
        (Method::POST, path::ADMIN_CREATE, Operation::AdminCreate),
        (Method::POST, path::ADMIN_DELETE, Operation::AdminDelete),
        (Method::POST, path::ADMIN_LIMITS_SET, Operation::AdminLimitsSet),
        (Method::POST, path::ADMIN_LIMITS_GET, Operation::AdminLimitsGet),
        (Method::POST, path::ADMIN_ENTITY, Operation::AdminEntity),
        (Method::POST, path::ADMIN_ENTITIES, Operation::AdminEntities),
        (Method::POST, path::ADMIN_ENTITY_BY_ALIAS, Operation::AdminEntityByAlias),
        (Method::GET, path::ADMIN_OPS, Operation::AdminOps),
        (Method::GET, path::CLUSTER_STATUS, Operation::ClusterStatus),
        (Method::POST, path::CLUSTER_ADD, Operation::ClusterAdd),
        (Method::POST, path::CLUSTER_REMOVE, Operation::ClusterRemove),
        (Method::POST, path::CLUSTER_TRANSFER, Operation::ClusterTransfer),
    ]
    .map(|(method, path, operation)| (method, path.to_owned(), operation))
    .to_vec()
}

/// `docs/api.md` section 8.
fn existing_clients() -> Vec<Row> {
    let (values, cache) = (Keyspace::Values, Keyspace::Cache);
    [
        (Method::GET, "/get", Operation::Get(values)),
        (Method::POST, "/set", Operation::Set(values)),
        (Method::POST, "/delete", Operation::Delete(values)),
        (Method::DELETE, "/delete", Operation::Delete(values)),
        (Method::POST, "/setnx", Operation::SetIfAbsent(values)),
        (Method::POST, "/cas", Operation::CompareAndSwap(values)),
        (Method::POST, "/bump", Operation::Bump),
        (Method::GET, "/iterate/prefix", Operation::Iterate(values, IterateForm::LegacyData)),
        // POST /cache/get, /cache/setnx and /cache/cas are the store's own rows.
        (Method::GET, "/cache/get", Operation::Get(cache)),
        (Method::POST, "/cache/set", Operation::Set(cache)),
        (Method::POST, "/cache/delete", Operation::Delete(cache)),
        (Method::DELETE, "/cache/delete", Operation::Delete(cache)),
        (Method::GET, "/cache/iterate/prefix", Operation::Iterate(cache, IterateForm::LegacyArray)),
    ]
    .map(|(method, path, operation)| (method, path.to_owned(), operation))
    .to_vec()
}

/// The probes stand at the root, where their tools look, and below the base path like everything else.
fn probes() -> impl Iterator<Item = Route> {
    ["", path::BASE].into_iter().flat_map(|base| {
        [(path::LIVEZ, Operation::Live), (path::READYZ, Operation::Ready), (path::METRICS, Operation::Metrics)]
            .map(|(path, operation)| row(Method::GET, base, path, operation))
    })
}

fn row(method: Method, base: &str, path: &str, operation: Operation) -> Route {
    let (listener, class, permission) = standing(operation);
    Route { path: format!("{base}{path}"), method, listener, class, permission, operation }
}

/// Where an operation is served, what it counts as, and who may use it.
fn standing(operation: Operation) -> (Listener, Class, Permission) {
    match operation {
        Operation::Get(keyspace)
        | Operation::GetByBody(keyspace)
        | Operation::Set(keyspace)
        | Operation::SetIfAbsent(keyspace)
        | Operation::CompareAndSwap(keyspace)
        | Operation::Delete(keyspace)
        | Operation::Iterate(keyspace, _)
        | Operation::IterateByBody(keyspace) => (Listener::Public, class(keyspace), Permission::AnyKey),
        Operation::Bump => (Listener::Public, Class::Values, Permission::AnyKey),
        Operation::Limits
        | Operation::Ping
        | Operation::AliasCreate
        | Operation::AliasDelete
        | Operation::AliasList => (Listener::Public, Class::System, Permission::AnyKey),
        Operation::AdminCreate
        | Operation::AdminDelete
        | Operation::AdminLimitsSet
        | Operation::AdminLimitsGet
        | Operation::AdminEntity
        | Operation::AdminEntities
        | Operation::AdminEntityByAlias
        | Operation::AdminOps
        | Operation::ClusterAdd
        | Operation::ClusterRemove
        | Operation::ClusterTransfer => (Listener::Private, Class::System, Permission::Root),
        Operation::ClusterStatus => (Listener::Private, Class::System, Permission::RootAnytime),
        Operation::Live | Operation::Ready | Operation::Metrics => (Listener::Private, Class::System, Permission::Open),
    }
}

fn class(keyspace: Keyspace) -> Class {
    match keyspace {
        Keyspace::Values => Class::Values,
        Keyspace::Cache => Class::Cache,
    }
}

/// All rows of one path on one listener.
#[derive(Debug)]
pub(crate) struct Path {
    rows: Vec<Route>,
}

impl Path {
    /// What the path counts as.
    pub(crate) fn class(&self) -> Class {
        self.rows[0].class
    }

    /// Whether it is one of the paths that monitors ask, without a key.
    pub(crate) fn is_probe(&self) -> bool {
        self.rows[0].permission == Permission::Open
    }

    /// Whether it is for operators.
    pub(crate) fn is_private(&self) -> bool {
        self.rows[0].listener == Listener::Private
    }

    /// The path's text.
    pub(crate) fn text(&self) -> &str {
        &self.rows[0].path
    }

    /// The row for the method.
    pub(crate) fn row(&self, method: &Method) -> Option<&Route> {
        self.rows.iter().find(|row| row.serves(method))
    }

    /// The path's methods, as `Allow` lists them.
    pub(crate) fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.rows.iter().map(|row| row.method.as_str()).collect();
        if self.rows.iter().any(Route::has_head) {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.join(", ")
    }
}

/// The paths of one listener: it finds a request's, and [`layers::serve`] does the rest. No path has parts that vary, so
/// that one look into a map is all the routing there is.
pub(crate) struct Router {
    app: Arc<App>,
    paths: HashMap<String, Path>,
}

impl Router {
    /// The rows of `listener`.
    pub(crate) fn new(app: Arc<App>, listener: Listener) -> Self {
        let mut paths = HashMap::<String, Path>::new();
        for route in routes().into_iter().filter(|route| route.listener == listener) {
            paths.entry(route.path.clone()).or_insert_with(|| Path { rows: Vec::new() }).rows.push(route);
        }
        Self { app, paths }
    }

    /// Answers a request that has come from `peer`.
    pub(crate) async fn serve(&self, peer: IpAddr, request: Request<Body>) -> Response {
        // Boxed, since a connection without a request should not be as large as one that has one.
        Box::pin(layers::serve(&self.app, self.paths.get(request.uri().path()), peer, request)).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_row_is_there_twice() {
        let mut seen = BTreeSet::new();
        for route in routes() {
            assert!(
                seen.insert((route.listener == Listener::Public, route.path.clone(), route.method.to_string())),
                "{route:?}"
            );
        }
    }

    #[test]
    fn every_admin_row_is_private_and_for_root_alone() {
        for route in routes().iter().filter(|route| route.path.contains("/admin/")) {
            assert_eq!(route.listener, Listener::Private, "{route:?}");
            assert!(matches!(route.permission, Permission::Root | Permission::RootAnytime), "{route:?}");
        }
    }

    #[test]
    fn bump_is_the_value_stores_alone() {
        assert!(!routes().iter().any(|route| route.path.ends_with("/cache/bump")));
        assert!(routes().iter().any(|route| route.path.ends_with("/vs/bump")));
    }
}
