//! How far the state machine has come: the one row that every transaction writes.

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    hash::StateHash,
    ids::{Keyspace, Position},
};

/// The feature level of a new state. A command that came later than the first release is refused below its level; no
/// command raises the level yet, since there is no such command.
pub const FEATURE_LEVEL_FIRST: u32 = 1;

/// How far a state machine has come, kept in the engine beside the data and changed with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Which store this is: an engine's files are not taken for the other one's.
    pub keyspace: Keyspace,
    /// The last entry that was applied; none in a new state.
    pub position: Option<Position>,
    /// The last membership that was applied.
    pub membership: Option<Membership>,
    /// Which commands the cluster may use; see [`FEATURE_LEVEL_FIRST`].
    pub feature_level: u32,
    /// The latest leader's clock seen in a batch, in milliseconds since the Unix epoch; 0 before the first.
    pub time_unix_ms: u64,
    /// The hash of all rows but this one.
    pub state_hash: StateHash,
    /// Sums over all scopes.
    pub totals: Totals,
}

/// The group's membership, as the consensus layer encodes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The entry that set it.
    pub position: Position,
    /// Its encoding, opaque here.
    #[serde(serialize_with = "at_once")]
    pub bytes: storage::Bytes,
}

/// All bytes in one step, where serde takes them one by one: every transaction writes them. What is written is the same.
fn at_once<S: Serializer>(bytes: &storage::Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Sums over all scopes of one keyspace, kept as the rows change, so that reading them costs one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The sum of the sizes of the live keys and values, in bytes.
    pub bytes: u64,
    /// The number of live keys.
    pub keys: u64,
    /// The number of entity keys (`values` keyspace; 0 in `cache`).
    pub entities: u64,
}

impl Applied {
    /// The state of an empty engine.
    pub(crate) fn new(keyspace: Keyspace) -> Self {
        Self {
            keyspace,
            position: None,
            membership: None,
            feature_level: FEATURE_LEVEL_FIRST,
            time_unix_ms: 0,
            state_hash: StateHash::default(),
            totals: Totals::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// States of before have it so.
    #[test]
    fn a_membership_is_written_as_its_bytes_one_by_one() {
        let position = Position { term: 3, index: 500 };
        for bytes in [vec![], vec![7], (0..=255).collect()] {
            let one_by_one = postcard::to_stdvec(&(position, &bytes)).unwrap();
            let membership = Membership { position, bytes: bytes.into() };
            assert_eq!(postcard::to_stdvec(&membership).unwrap(), one_by_one);
            assert_eq!(postcard::from_bytes::<Membership>(&one_by_one).unwrap(), membership);
        }
    }
}
