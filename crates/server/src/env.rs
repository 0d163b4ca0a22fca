//! Time and randomness as the server takes them from [`Env`], which the node hands in: nanoseconds, and bytes.

use consensus::env::Env;

/// Nanoseconds of the clock that never jumps; they last for 584 years.
pub(crate) fn monotonic_ns(env: &dyn Env) -> u64 {
    u64::try_from(env.monotonic().as_nanos()).unwrap_or(u64::MAX)
}

/// Random bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>(env: &dyn Env) -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(size_of::<u64>()) {
        chunk.copy_from_slice(&env.random_u64().to_le_bytes()[..chunk.len()]);
    }
    bytes
}
