//! A leader whose log is not the one that this member has applied.
//!
//! A leader has every entry that was ever committed: so Raft proves, and openraft takes for granted; it would cut
//! committed entries off the log, or panic. It is not so where one member was started twice: on a copy of its data
//! directory, or on an older one. Then one of two groups sends to a member of the other, and what they have committed
//! differs. This member ends before it takes anything of it, and says so: which of the two is the true one the operator
//! knows.
//!
//! 1. Terms only grow along a log. So an entry, or the one before the first that is sent, tells of another log than this
//!    member's last applied entry does when it has another term at the same index, a lesser one behind, or a greater one
//!    before it. Two logs that agree in all terms are not told apart here, but by their states' hashes.
//! 2. That alone proves nothing: a deposed leader may never have had what was committed since. So openraft's core is
//!    asked whether the sender's vote is good, and for the entry committed last, in one moment; votes only grow.

use openraft::async_runtime::watch::WatchReceiver as _;
use state::ids::Position;
use storage::Engine;

use crate::{
    group::Group,
    types::{LogId, TypeConfig, Vote, position},
};

/// Whether a log that holds `sent` cannot hold `applied`.
fn contradicts(applied: Position, sent: Position) -> bool {
    match sent.index.cmp(&applied.index) {
        std::cmp::Ordering::Less => sent.term > applied.term,
        std::cmp::Ordering::Equal => sent.term != applied.term,
        std::cmp::Ordering::Greater => sent.term < applied.term,
    }
}

/// What of a log contradicts `applied` first.
fn first_contradiction(applied: Option<Position>, sent: impl Iterator<Item = LogId>) -> Option<Position> {
    let applied = applied?;
    sent.map(|id| position(&id)).find(|sent| contradicts(applied, *sent))
}

impl<E: Engine> Group<E> {
    /// Whether a leader's log, of which these ids are a part, contradicts what this member has applied: the member has then
    /// been told to end, and must take nothing of it.
    pub(crate) async fn is_contradicted(&self, vote: &Vote, sent: impl Iterator<Item = LogId>) -> bool {
        let applied = self.raft().metrics().borrow_watched().last_applied.as_ref().map(position);
        let Some(found) = first_contradiction(applied, sent) else { return false };
        let vote = *vote;
        let ask = move |state: &openraft::RaftState<TypeConfig>| {
            (vote >= *state.vote_ref(), state.local_committed().copied())
        };
        let known = self.raft().with_raft_state(ask).await;
        // Where openraft has ended there is nobody to take anything.
        let Ok((is_leader, committed)) = known else { return false };
        let committed = committed.as_ref().map(position).filter(|committed| contradicts(*committed, found));
        let Some(committed) = committed.filter(|_| is_leader) else { return false };
        self.condemn(format!(
            "the leader's log has term {} at index {}, this member's has term {} at index {}, and has committed that: this \
             data directory is a copy or an older state of one that is in use, or the leader's is. Keep the one that holds \
             what was acknowledged; move the other away and start with an empty one, which joins as a new node",
            found.term, found.index, committed.term, committed.index,
        ));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_do_not_grow_along_the_log_tell_of_another_one() {
        let applied = Position { term: 3, index: 7 };
        for (term, index, expected) in [
            (3, 7, false),
            (2, 7, true),
            (4, 7, true),
            (3, 8, false),
            (4, 8, false),
            (2, 8, true),
            (3, 6, false),
            (1, 6, false),
            (4, 6, true),
        ] {
            assert_eq!(contradicts(applied, Position { term, index }), expected, "term {term} at {index}");
        }
    }
}
