//! How many files and connections the process may have open.
//!
//! A connection takes one, as each file of the log and the store does. A node that has none left cannot make its log's next
//! segment, and a log that cannot be written ends the node. So the limit is raised as far as the system allows, and the
//! listeners leave what the node itself needs: clients may use up their own connections, never its files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::peer;

/// What a node needs beside its connections, and those that it is turning away.
const OWN_FILES: u64 = 256;

/// Raises the limit of the process as far as the system allows; answers how many files may be open then.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let in_force = if raised.is_ok() { limit.maximum } else { limit.current };
    in_force.unwrap_or(u64::MAX)
}

/// How many connections each of the two listeners may have: as many as it is `wanted` to, where `files` may be open.
pub(crate) fn connections_max(files: u64, has_peers: bool, wanted: usize) -> usize {
    let peers = if has_peers { peer::CONNECTIONS_MAX as u64 } else { 0 };
    let own = (OWN_FILES + peers).min(files / 4 * 3);
    let each = usize::try_from((files - own) / 2).unwrap_or(usize::MAX).max(1);
    if each < wanted {
        tracing::warn!(
            files,
            connections_max = each,
            wanted,
            "the system's limit of open files leaves fewer connections"
        );
    }
    wanted.min(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_node_its_files() {
        assert_eq!(connections_max(u64::MAX, true, 8_192), 8_192);
        assert_eq!(connections_max(20_000, true, 8_192), 8_192);
        assert_eq!(connections_max(4_096, false, 8_192), 1_920);
        assert_eq!(connections_max(1_024, true, 8_192), 128);
        assert_eq!(connections_max(256, false, 8_192), 32);
        assert_eq!(connections_max(1_024, false, 10), 10);
    }
}
