//! Names of the headers that InsiDB adds, in lower case as HTTP libraries hold them.

/// The scope's counter of accepted writes (every write), or the revision at which the key was last written (get).
pub const REVISION: &str = "x-insidb-revision";
/// The cache's generation: a new one means that the cache was lost and starts empty.
pub const CACHE_GENERATION: &str = "x-insidb-cache-generation";
/// With a stale read: the age of the node's last word from the leader, in milliseconds.
pub const STALENESS_MS: &str = "x-insidb-staleness-ms";
/// The request's id, on every answer and in the log.
pub const REQUEST_ID: &str = "x-request-id";
/// With "Disk usage limit exceeded": bytes in use.
pub const CURRENT_DISK_USAGE: &str = "x-current-disk-usage";
/// With "Disk usage limit exceeded": the quota in bytes.
pub const DISK_USAGE_LIMIT: &str = "x-disk-usage-limit";
/// With "Memory usage limit exceeded": bytes in use.
pub const CURRENT_MEMORY_USAGE: &str = "x-current-memory-usage";
/// With "Memory usage limit exceeded": the quota in bytes.
pub const MEMORY_USAGE_LIMIT: &str = "x-memory-usage-limit";
/// With 429: requests per second.
pub const RATE_LIMIT: &str = "x-ratelimit-limit";
/// With 429: the burst.
pub const RATE_BURST: &str = "x-ratelimit-burst";
