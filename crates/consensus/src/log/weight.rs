//! How large an entry is: an estimate of its encoding, cheap enough to take of every entry.

use openraft::EntryPayload;

use crate::types::Entry;

/// What an entry or a member takes beside what varies, in bytes, rounded up.
const FIXED_BYTES: usize = 64;

/// About how many bytes `entry` takes, in the log, in memory and between peers.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.0.commands.iter().map(|command| command.weight_bytes()).sum(),
        EntryPayload::Membership(membership) => {
            membership.nodes().map(|(_, peer)| FIXED_BYTES + peer.address.len()).sum()
        }
    };
    FIXED_BYTES + payload
}
