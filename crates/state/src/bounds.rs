//! The largest size of everything: the one place that says so.

/// The default bound on a key and on a value, in UTF-8 bytes: `MaxValueSize` of the specification.
pub const VALUE_BYTES_MAX_DEFAULT: usize = 1_048_576;
/// The greatest bound that can be configured for a key or a value, in bytes.
pub const VALUE_BYTES_MAX_LIMIT: usize = 16 * 1_048_576;
/// Aliases of one entity key.
pub const ALIASES_MAX: usize = 16;
/// Keys of one page of iterate.
pub const PAGE_KEYS_MAX: u32 = 1_000;
/// Keys of one page of iterate when the request does not say.
pub const PAGE_KEYS_DEFAULT: u32 = 100;
/// Bytes of an API key's name.
pub const KEY_NAME_BYTES_MAX: usize = 256;
/// Commands of one log entry.
pub const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of one log entry that holds more than one command.
pub const BATCH_BYTES_MAX: usize = 1_048_576;
/// Rows that one step of a deleted scope's removal takes.
pub const PURGE_ROWS_MAX: u32 = 512;
/// Bytes of rows after which one step of a deleted scope's removal takes no further row. It decides what a step does,
/// so that all nodes must hold the same: changing it takes a feature level.
pub const PURGE_BYTES_MAX: usize = 4 * 1_048_576;
/// Scopes that one look at the deletions under way answers.
pub const DELETIONS_PAGE_MAX: usize = 1_000;

/// The quota and the rate of a key that was made without saying (`docs/api.md` section 4).
pub mod defaults {
    /// `bytes_in_memory`.
    pub const BYTES_IN_MEMORY: u64 = 262_144_000;
    /// `bytes_on_disk`.
    pub const BYTES_ON_DISK: u64 = 1_073_741_824;
    /// `rate_per_second_data_limit`.
    pub const RATE_PER_SECOND: u64 = 25;
}
