//! What must hold between a group's log and its state when it starts.
//!
//! 1. The state holds a log's beginning, up to its applied entry; the log holds what follows. So the log has that entry,
//!    or was purged exactly up to it or less far.
//! 2. A checkpoint is durable only when the log is durable as far as it comes (`checkpoint.rs`): openraft applies what is
//!    committed, also where this member's own log has not synced it yet.
//! 3. A snapshot that is installed jumps ahead of the log, which is purged behind it. Before it is installed, the log
//!    notes that all up to there is committed. A crash in between leaves a state ahead of the log, and the note that says
//!    why: the purge is made up for. Or it leaves the note alone, which then means nothing.
//! 4. Whatever else is found has lost one of the two, or has an older copy of it, and with the log its votes: refused.

use openraft::{
    entry::RaftPayload,
    storage::{RaftLogReader, RaftLogStorage},
};
use state::{applied::Applied, ids::Position};

use crate::{
    group::Options,
    state_machine::decode_applied,
    types::{MemberId, TypeConfig, Vote, log_id, position},
};

/// A member that once voted for itself is one of those that its state names, or that the log behind the state does: in a
/// store copied from another node it would wait for ever to be elected. Its state alone may be a snapshot from before it was
/// taken in.
pub(crate) async fn check_that_state_is_ours<L: RaftLogStorage<TypeConfig>>(
    options: &Options,
    applied: &Applied,
    vote: Option<&Vote>,
    log: &mut L,
) -> Result<(), String> {
    let (_, stored) = decode_applied(applied).map_err(|error| error.to_string())?;
    let membership = stored.membership();
    let has_campaigned = vote.is_some_and(|vote| vote.leader_id.voted_for == options.member);
    if !has_campaigned || membership.nodes().next().is_none() || membership.get_node(&options.member).is_some() {
        return Ok(());
    }
    let begin = applied.position.map_or(0, |position| position.index + 1);
    let is_named = names(log, begin, options.member)
        .await
        .map_err(|error| format!("cannot read the log of the {} group: {error}", options.name()))?;
    if is_named {
        return Ok(());
    }
    Err(format!(
        "the store of the {} group is another node's: it does not know member {}. Put back this node's own store, or \
         rebuild the node",
        options.name(),
        options.member
    ))
}

/// Whether a membership in the log from `begin` on names the member.
async fn names<L: RaftLogStorage<TypeConfig>>(log: &mut L, begin: u64, member: MemberId) -> std::io::Result<bool> {
    let state = log.get_log_state().await?;
    let begin = begin.max(state.last_purged_log_id.map_or(0, |purged| purged.index + 1));
    let end = state.last_log_id.map_or(0, |last| last.index + 1);
    let mut reader = log.get_log_reader().await;
    for index in begin..end {
        let entries = RaftLogReader::<TypeConfig>::try_get_log_entries(&mut reader, index..=index).await?;
        let mut memberships = entries.iter().filter_map(|entry| entry.payload.get_membership());
        if memberships.any(|membership| membership.get_node(&member).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that the log goes on where the state ends, and ends what a crash in an installation has left undone.
pub(crate) async fn join_log_and_state<L: RaftLogStorage<TypeConfig>>(
    options: &Options,
    log: &mut L,
    applied: Option<Position>,
) -> Result<(), String> {
    let name = options.name();
    match join(log, applied).await.map_err(|error| format!("cannot read the log of the {name} group: {error}"))? {
        Found::Joined => Ok(()),
        Found::LogBeginsTooLate => Err(format!(
            "the log of the {name} group begins behind what the store holds: the store was lost or is an older copy. \
             Restore log and store from the same backup, or rebuild this node"
        )),
        Found::LogEndsTooEarly => Err(format!(
            "the log of the {name} group ends before what the store holds: the log was lost or is an older copy. \
             Restore log and store from the same backup, or rebuild this node"
        )),
    }
}

enum Found {
    Joined,
    LogBeginsTooLate,
    LogEndsTooEarly,
}

async fn join<L: RaftLogStorage<TypeConfig>>(log: &mut L, applied: Option<Position>) -> std::io::Result<Found> {
    let purged = log.get_log_state().await?.last_purged_log_id.as_ref().map(position);
    let noted = log.read_committed().await?.as_ref().map(position);
    let index = |position: Option<Position>| position.map(|position| position.index);
    if purged != applied && index(purged) >= index(applied) {
        return Ok(Found::LogBeginsTooLate);
    }
    if let Some(applied) = applied
        && !holds(log, applied).await?
    {
        if noted < Some(applied) {
            return Ok(Found::LogEndsTooEarly);
        }
        tracing::info!(
            index = applied.index,
            "a snapshot was installed before the last end: purging the log behind it"
        );
        log.truncate_after(purged.map(log_id)).await?;
        log.purge(log_id(applied)).await?;
    }
    if let Some(noted) = noted
        && !holds(log, noted).await?
    {
        // Of a snapshot that was never installed.
        log.save_committed(applied.map(log_id)).await?;
    }
    Ok(Found::Joined)
}

/// Whether the log has this very entry, or was purged up to it or past it.
async fn holds<L: RaftLogStorage<TypeConfig>>(log: &mut L, at: Position) -> std::io::Result<bool> {
    let purged = log.get_log_state().await?.last_purged_log_id.as_ref().map(position);
    if let Some(purged) = purged.filter(|purged| purged.index >= at.index) {
        return Ok(purged == at || purged.index > at.index);
    }
    let mut reader = log.get_log_reader().await;
    let entries = RaftLogReader::<TypeConfig>::try_get_log_entries(&mut reader, at.index..=at.index).await?;
    Ok(entries.first().is_some_and(|entry| position(&entry.log_id) == at))
}

/// The vote that the log holds; none when this member has never been one.
pub(crate) async fn vote<L: RaftLogStorage<TypeConfig>>(
    options: &Options,
    log: &mut L,
) -> Result<Option<Vote>, String> {
    let mut reader = log.get_log_reader().await;
    let vote = RaftLogReader::<TypeConfig>::read_vote(&mut reader).await;
    vote.map_err(|error| format!("cannot read the vote of the {} group: {error}", options.name()))
}
