//! States that differ at the same place in the log: one of them is wrong, and must not be served.
//!
//! 1. With each renewal travels the hash of the node's state where it is. The leader compares it with what its own was
//!    there, as far as it remembers (the newest 4,096 entries).
//! 2. Where they differ, the leader asks every other voter for its hash at that place. Whose hash a majority of the voters
//!    does not have is wrong: the node, which is granted no lease again and stops, or the leader itself, which gives up
//!    its lease at once and stops.
//! 3. While no majority is known to have the one hash or the other (two voters, a tie, voters that do not answer), neither
//!    of the two is granted a lease, and what they have ends at once: better no answer than a wrong one. A voter that
//!    answers later decides it. Of two voters neither can know: the operator decides, by a third voter, which takes what
//!    the leader has, or by a backup.
//!
//! What the leader cannot compare (it has no member of that cache generation, the node is further ahead or behind than it
//! remembers) is compared with a later renewal.

use futures_util::future::join_all;
use state::hash::StateHash;

use super::{desk::Desk, lease::Process, timing::HASH_WAIT_MAX};
use crate::peer::message::{Ask, Condemned, Renewal, Sample, Told};

/// Who is wrong when two hashes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority has the leader's.
    Theirs,
    /// A majority has another one than the leader's.
    Ours,
    /// No majority is known to have the same.
    Unknown,
}

/// Judges by the hashes of all voters at one index: the leader's, and what the others have said.
fn judge(own: StateHash, others: &[Option<StateHash>]) -> Verdict {
    let has_majority = |hash: StateHash| {
        let same = others.iter().filter(|other| **other == Some(hash)).count() + usize::from(hash == own);
        2 * same > others.len() + 1
    };
    if has_majority(own) {
        Verdict::Theirs
    } else if others.iter().flatten().any(|hash| has_majority(*hash)) {
        Verdict::Ours
    } else {
        Verdict::Unknown
    }
}

/// A place at which two states differ.
struct Difference {
    store: &'static str,
    generation: Option<u64>,
    index: u64,
    theirs: StateHash,
    ours: StateHash,
}

impl Desk {
    /// This process.
    pub(super) fn process(&self) -> Process {
        Process { node: self.node, id: self.process }
    }

    /// This node's state hash at an index, of the Value Store or of a cache generation, if it remembers it.
    pub(super) fn hash_at(&self, generation: Option<u64>, index: u64) -> Option<StateHash> {
        match generation {
            None => self.values.hash_at(index),
            Some(generation) => {
                let cache = self.cache.load_full().filter(|cache| cache.generation == generation)?;
                cache.group.hash_at(index)
            }
        }
    }

    /// Compares the states of a process that asks for its lease with this one's, and judges where they differ.
    pub(super) async fn compare(&self, process: Process, renewal: &Renewal) {
        if process == self.process() {
            return;
        }
        match self.difference(renewal) {
            Some(difference) => self.settle(process, &difference).await,
            None => self.end_doubt(process, renewal).await,
        }
    }

    /// Trusts this process and the other one again, when a majority has what both have in both stores.
    async fn end_doubt(&self, process: Process, renewal: &Renewal) {
        let is_in_doubt = {
            let leases = self.lessor.leases();
            leases.is_doubted(process) || leases.is_doubted(self.process())
        };
        let samples: Vec<_> = samples(renewal).collect();
        if !is_in_doubt || samples.len() < 2 {
            return;
        }
        for (generation, Sample { index, hash }) in samples {
            let is_equal = self.hash_at(generation, index) == Some(hash);
            if !is_equal || self.ask_all(generation, index, hash, Some((process, hash))).await != Verdict::Theirs {
                return;
            }
        }
        tracing::info!(node = %process.node, "a majority has the state of this node and of the other: both serve again");
        let mut leases = self.lessor.leases();
        leases.trust(process);
        leases.trust(self.process());
    }

    fn difference(&self, renewal: &Renewal) -> Option<Difference> {
        samples(renewal).find_map(|(generation, Sample { index, hash: theirs })| {
            let ours = self.hash_at(generation, index).filter(|ours| *ours != theirs)?;
            let store = if generation.is_none() { "values" } else { "cache" };
            Some(Difference { store, generation, index, theirs, ours })
        })
    }

    async fn settle(&self, process: Process, difference: &Difference) {
        let Difference { store, generation, index, theirs, ours } = difference;
        let said = Some((process, *theirs));
        let verdict = self.ask_all(*generation, *index, *ours, said).await;
        let node = process.node;
        match verdict {
            Verdict::Theirs => {
                tracing::error!(%node, store, index, %theirs, %ours, "states differ, and a majority has this node's");
                self.lessor.leases().condemn(
                    process,
                    Condemned::Differs(format!(
                        "its {store} state at index {index} hashes to {theirs}, a majority's to {ours}"
                    )),
                );
            }
            Verdict::Ours => {
                tracing::error!(%node, store, index, %theirs, %ours, "states differ, and a majority has not this node's");
                self.holder.give_up();
                // Its own next renewal finds this, and stops the node.
                self.lessor.leases().condemn(
                    self.process(),
                    Condemned::Differs(format!(
                        "its {store} state at index {index} hashes to {ours}, a majority's to another hash"
                    )),
                );
            }
            Verdict::Unknown => {
                self.holder.suspend();
                let is_new = {
                    let mut leases = self.lessor.leases();
                    leases.doubt(self.process());
                    leases.doubt(process)
                };
                if is_new {
                    tracing::error!(
                        %node, store, index, %theirs, %ours,
                        "states differ, and it is not known which is right: neither node serves"
                    );
                }
            }
        }
    }

    /// Asks the other voters of the store's group for their hash at `index`, but for the process that has said its own.
    async fn ask_all(
        &self,
        generation: Option<u64>,
        index: u64,
        own: StateHash,
        said: Option<(Process, StateHash)>,
    ) -> Verdict {
        let members = match generation {
            None => self.values.members(),
            Some(generation) => match self.cache.load_full().filter(|cache| cache.generation == generation) {
                Some(cache) => cache.group.members(),
                None => return Verdict::Unknown,
            },
        };
        let others = members.members.iter().filter(|member| member.is_voter && member.id.node != self.node);
        let hashes = join_all(others.map(async |member| {
            if let Some((process, hash)) = said
                && process.node == member.id.node
            {
                return Some(hash);
            }
            let ask = Ask::HashAt { generation, index };
            match self.peers.ask(&member.peer.address, &ask, HASH_WAIT_MAX).await {
                Ok(Told::Hash(hash)) => hash,
                Ok(_) | Err(_) => None,
            }
        }))
        .await;
        judge(own, &hashes)
    }
}

/// What a renewal says of the states, each with its cache generation.
fn samples(renewal: &Renewal) -> impl Iterator<Item = (Option<u64>, Sample)> {
    let values = renewal.values.map(|sample| (None, sample));
    let cache = renewal.cache.map(|(generation, sample)| (Some(generation), sample));
    values.into_iter().chain(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_is_right_and_nobody_where_there_is_none() {
        let hash = |n: u8| {
            let mut hash = StateHash::default();
            hash.insert(&[n], &[]);
            hash
        };
        let (a, b, c) = (Some(hash(1)), Some(hash(2)), Some(hash(3)));
        for (others, expected) in [
            (vec![b, a], Verdict::Theirs),
            (vec![b, b], Verdict::Ours),
            (vec![b, c], Verdict::Unknown),
            (vec![b, None], Verdict::Unknown),
            (vec![a, None], Verdict::Theirs),
            // Two voters: nobody can tell.
            (vec![b], Verdict::Unknown),
            // A tie.
            (vec![a, b, b], Verdict::Unknown),
            (vec![b, b, b], Verdict::Ours),
            (vec![a, a, b, b], Verdict::Theirs),
            (vec![a, b, b, b], Verdict::Ours),
            (vec![a, b, b, None], Verdict::Unknown),
            // A learner differs from a single voter.
            (vec![], Verdict::Theirs),
        ] {
            assert_eq!(judge(hash(1), &others), expected, "{others:?}");
        }
    }
}
