//! How large an entry is: an estimate of its encoding, cheap enough to take of every entry.

use openraft::EntryPayload;
use state::command::{Admin, Cleanup, Command, Condition, Data, Registry, Write};

use crate::types::Entry;

/// What a command, a write or an entry takes beside its keys and values, in bytes, rounded up.
const FIXED_BYTES: usize = 64;

/// About how many bytes `entry` takes, in the log, in memory and between peers.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.0.commands.iter().map(command_bytes).sum(),
        EntryPayload::Membership(membership) => {
            membership.nodes().map(|(_, peer)| FIXED_BYTES + peer.address.len()).sum()
        }
    };
    FIXED_BYTES + payload
}

fn command_bytes(command: &Command) -> usize {
    match command {
        Command::Data(Data { writes, .. }) => FIXED_BYTES + writes.iter().map(write_bytes).sum::<usize>(),
        Command::Admin(admin) => match admin {
            Admin::CreateKey { name, .. } => 2 * FIXED_BYTES + name.len(),
            Admin::DeleteKey(_) | Admin::SetLimits(..) | Admin::CreateAlias { .. } | Admin::DeleteAlias { .. } => {
                2 * FIXED_BYTES
            }
        },
        Command::Cleanup(Cleanup::CloseScope(_) | Cleanup::Purge { .. } | Cleanup::Finish(_)) => FIXED_BYTES,
        Command::Registry(Registry::Register { .. } | Registry::Reset { .. }) => FIXED_BYTES,
    }
}

fn write_bytes(write: &Write) -> usize {
    let content = match write {
        Write::Put { key, value, condition } => {
            key.as_bytes().len() + value.as_bytes().len() + condition_bytes(condition)
        }
        Write::Delete { key, condition } => key.as_bytes().len() + condition_bytes(condition),
        Write::Bump { key, .. } => key.as_bytes().len(),
    };
    FIXED_BYTES + content
}

fn condition_bytes(condition: &Condition) -> usize {
    match condition {
        Condition::ValueIs(value) => value.as_bytes().len(),
        Condition::Always | Condition::Absent | Condition::RevisionIs(_) => 0,
    }
}
