//! Route paths, below [`BASE`].

/// What every path begins with.
pub const BASE: &str = "/db/api/v1";

/// The durable store: get, set, delete.
pub const VS: &str = "/vs";
/// The cache: get, set, delete.
pub const CACHE: &str = "/cache";
/// Behind a store: set if absent.
pub const SETNX: &str = "/setnx";
/// Behind a store: compare and swap.
pub const CAS: &str = "/cas";
/// Behind [`VS`] only: atomic addition.
pub const BUMP: &str = "/bump";
/// Behind a store: keys by prefix.
pub const ITERATE: &str = "/iterate";
/// Behind a store: get with the key in the body, for keys too long for a URL.
pub const GET: &str = "/get";

/// The caller's usage and limits.
pub const LIMITS: &str = "/limits";
/// Who am I, who are you.
pub const PING: &str = "/ping";
/// Makes an alias.
pub const ALIAS_SET: &str = "/alias/set";
/// Ends an alias.
pub const ALIAS_DELETE: &str = "/alias/delete";
/// The caller's aliases.
pub const ALIAS_LIST: &str = "/alias/list";

/// Makes an API key.
pub const ADMIN_CREATE: &str = "/admin/api/create";
/// Deletes an API key and its data.
pub const ADMIN_DELETE: &str = "/admin/api/delete";
/// Changes a key's limits.
pub const ADMIN_LIMITS_SET: &str = "/admin/limits/set";
/// A key's usage and limits.
pub const ADMIN_LIMITS_GET: &str = "/admin/limits/get";
/// One key, whole.
pub const ADMIN_ENTITY: &str = "/admin/insight/entity";
/// All keys, by page.
pub const ADMIN_ENTITIES: &str = "/admin/insight/entities";
/// The key behind an alias.
pub const ADMIN_ENTITY_BY_ALIAS: &str = "/admin/insight/entity_by_alias";
/// Operations per second.
pub const ADMIN_OPS: &str = "/admin/metrics/ops";

/// Every node of the cluster, in both groups.
pub const CLUSTER_STATUS: &str = "/admin/cluster/status";
/// Takes a node into the cluster.
pub const CLUSTER_ADD: &str = "/admin/cluster/add";
/// Removes a node from the cluster, for good.
pub const CLUSTER_REMOVE: &str = "/admin/cluster/remove";
/// Hands the leadership over.
pub const CLUSTER_TRANSFER: &str = "/admin/cluster/transfer";

/// Whether the process lives; needs no key.
pub const LIVEZ: &str = "/livez";
/// Whether the node can serve a linearizable read; needs no key.
pub const READYZ: &str = "/readyz";
/// Prometheus metrics; needs no key.
pub const METRICS: &str = "/metrics";
