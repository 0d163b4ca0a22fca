//! Time and randomness, handed in by the node, so that a simulator can take their place.

/// Where a group takes time and randomness from.
pub trait Env: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, by the wall clock. What the leader stamps into an entry.
    fn unix_ms(&self) -> u64;

    /// Random bits that nobody can guess.
    fn random_u64(&self) -> u64;
}
