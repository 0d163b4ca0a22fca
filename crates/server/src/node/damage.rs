//! Damage that a start has found: whoever reads the line is told what to do.

use anyhow::anyhow;
use consensus::log::disk::Error as LogError;

/// What is said beside every damage.
pub(super) const REBUILD: &str = "A node of a cluster is rebuilt from the others: remove this data directory, and start \
                                  the node again. A single node has its data nowhere else: restore a backup";

/// Why the store does not open.
pub(super) fn of_store(error: storage::Error) -> anyhow::Error {
    match error {
        storage::Error::Corrupt { .. } => anyhow!("{error}. {REBUILD}"),
        storage::Error::Io { .. } | storage::Error::DiskFull { .. } => error.into(),
    }
}

/// Why the log does not open.
pub(super) fn of_log(error: LogError) -> anyhow::Error {
    match error {
        LogError::Corrupt { .. } | LogError::Missing { .. } | LogError::Foreign { .. } => anyhow!("{error}. {REBUILD}"),
        LogError::Io { .. } | LogError::Version { .. } | LogError::RecordVersion { .. } | LogError::SegmentBytes(_) => {
            error.into()
        }
    }
}
