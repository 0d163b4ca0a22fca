//! What nodes say to each other beside Raft's own messages.
//!
//! Encoded with postcard, behind the version that every call carries: the order of variants and fields **is the
//! format**; new ones go to the end.

use std::time::Duration;

use consensus::types::MemberId;
use serde::{Deserialize, Serialize};
use state::{
    hash::StateHash,
    ids::{NodeId, ScopeId},
};
use uuid::Uuid;

use crate::rate::Share;

/// A question to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Who are you? For a node that looks for its cluster, and for a leader that is told to add a node.
    Identify,
    /// Take this node into the cluster, or note its new address. Only the leader of the `values` group does it.
    Join(Newcomer),
    /// Carry out a change of the cluster that an operator asked another node for. Only the leader does it.
    Change(Change),
    /// What do you know of both groups?
    Status,
    /// Renew my lease. Only the leader does it.
    Renew(Renewal),
    /// Answer once everything applied now is applied by every node that holds a lease. Only the leader can.
    Barrier {
        /// How long the asker waits, in milliseconds.
        wait_ms: u64,
    },
    /// Answer once you have applied the `values` group's entry at `index`.
    AwaitApplied {
        /// The index.
        index: u64,
        /// How long the asker waits, in milliseconds.
        wait_ms: u64,
    },
    /// What did your state hash to behind the entry at `index`?
    HashAt {
        /// Of this generation of the cache group; none for the `values` group.
        generation: Option<u64>,
        /// The index.
        index: u64,
    },
    /// Hand the cache group's leadership to this node's member. Only the leader of that group does it.
    TransferCache {
        /// The node.
        node: NodeId,
    },
    /// This is what I hold of the scopes' rate limits, and what I was asked for. Only the leader answers, and not before it
    /// has something to say or a moment has passed.
    Shares(ShareReport),
}

/// A node's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    /// To [`Ask::Identify`].
    Identity(Identity),
    /// Done.
    Done,
    /// Not by this node: ask the leader, if one is known.
    NotLeader(Option<Leader>),
    /// Refused, with the reason, for an operator to read.
    Refused(String),
    /// To [`Ask::Status`].
    Status(Box<Status>),
    /// To [`Ask::Renew`].
    Renewed(Renewed),
    /// Time was up first, or the answer cannot be known: what was asked for may yet come true.
    Unknown,
    /// To [`Ask::AwaitApplied`]: this process has.
    Applied {
        /// The process that answers; see [`Renewal::process`].
        process: u64,
    },
    /// To [`Ask::Barrier`].
    InForce {
        /// Up to this index of the `values` group's log everything is in force on every node that may serve.
        index: u64,
    },
    /// To [`Ask::HashAt`]: the hash, if it is remembered.
    Hash(Option<StateHash>),
    /// To [`Ask::Shares`].
    Shares(Shares),
    /// To [`Ask::Join`]: the node is not taken in, now or later, and must end.
    Condemned(Condemned),
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its cluster; none for a node that waits to be taken into one.
    pub cluster_id: Option<Uuid>,
    /// The node.
    pub node: NodeId,
    /// Where its peers reach it, as `host:port`.
    pub address: String,
}

/// The leader of the `values` group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// Where its peers reach it, as `host:port`.
    pub address: String,
}

/// A node that wants to be in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// The node.
    pub node: NodeId,
    /// Where its peers reach it, as `host:port`.
    pub address: String,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Take in the node that listens at this peer address.
    Add {
        /// `host:port`.
        address: String,
    },
    /// Remove a node for good, alive or not.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Hand both groups' leadership to a node; to any good one when none is named.
    Transfer {
        /// The node.
        node: Option<NodeId>,
    },
}

/// What a node knows of both groups, and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node that answers.
    pub node: NodeId,
    /// Its program's version.
    pub version: String,
    /// Its member of the `values` group.
    pub values: GroupStatus,
    /// Its member of the running cache generation, when it has one.
    pub cache: Option<GroupStatus>,
}

/// One member's view of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The member.
    pub member: MemberId,
    /// The generation, for the cache group; else 0.
    pub generation: u64,
    /// Its leader, when it knows one.
    pub leader: Option<MemberId>,
    /// Its term.
    pub term: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// The last index that it has applied.
    pub applied_index: u64,
    /// The hash of its state at that index; none before the first entry.
    pub state_hash: Option<StateHash>,
    /// What it knows of the others, when it leads.
    pub followers: Vec<Follower>,
}

/// What a leader knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// The member.
    pub member: MemberId,
    /// Up to where its log is known to be the leader's.
    pub matched_index: Option<u64>,
    /// How long ago it last answered.
    pub last_contact: Option<Duration>,
}

/// A node asks for its lease, and says what the leader has to know of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Renewal {
    /// The node.
    pub node: NodeId,
    /// How far its `values` state has come; none before the first entry.
    pub values: Option<Sample>,
    /// How far its cache state has come, with its generation.
    pub cache: Option<(u64, Sample)>,
    /// The cache generation that it suspects to have lost its majority (`ARCHITECTURE.md`, rule 6).
    pub suspects: Option<u64>,
    /// Which process of the node asks: a random number that it drew when it started.
    pub process: u64,
    /// Up to which index the process has applied the `values` group's log, so that every request since sees it.
    pub applied: u64,
    /// Whether it takes no entries for want of disk space.
    pub is_disk_full: bool,
}

/// A state, named by how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The last applied index.
    pub index: u64,
    /// The state's hash there.
    pub hash: StateHash,
}

/// The leader's answer to a [`Renewal`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Renewed {
    /// Whether the lease is granted, for its full length from the moment the renewal was sent.
    pub granted: bool,
    /// What the node must have applied before a lease is granted to it.
    pub floor: u64,
    /// Where clients reach the leader: the base of its public URLs.
    pub leader_public_url: String,
    /// The cache generation whose members shall end themselves: enough of its nodes suspect it.
    pub drop_generation: Option<u64>,
    /// Why the process must end, if it must.
    pub condemned: Option<Condemned>,
    /// Whether the node must not serve for now: its state differs from the leader's, or another's does, and no majority is
    /// known to have either.
    pub is_doubted: bool,
}

/// Why a process must end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condemned {
    /// Its state differs from what a majority has: where, and the hashes.
    Differs(String),
    /// Its log has lost what it had acknowledged.
    LogWentBack,
    /// Another process runs under the same identity.
    RunsTwice,
    /// The node was removed from the cluster, and both groups go on without it.
    Removed,
}

impl std::fmt::Display for Condemned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Differs(difference) => write!(
                f,
                "this node's state differs from the other nodes': {difference}. Start it with an empty data directory to \
                 rebuild it"
            ),
            Self::LogWentBack => f.write_str(
                "this node's log has lost what it had acknowledged: its data directory is an old copy, or its disk has lost \
                 writes. Start it with an empty data directory, and it joins as a new node",
            ),
            Self::RunsTwice => f.write_str(
                "another process runs with this node's identity: its data directory was copied. Stop both; start the \
                 original, and the other one with an empty data directory",
            ),
            Self::Removed => f.write_str(
                "this node was removed from the cluster. Start it with an empty data directory to bring it back as a new one",
            ),
        }
    }
}

/// Which answer about shares a node took up last: a later report proves that it was made after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The term of the leader that gave it.
    pub term: u64,
    /// Its number in that term, from 1; 0 is none.
    pub number: u64,
}

/// A node says what it holds of the scopes' limits, and what it was asked for (`rate.rs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReport {
    /// The node.
    pub node: NodeId,
    /// The answer that it took up last.
    pub taken: Round,
    /// What it holds of every scope's limit that has no share of its own.
    pub default: Share,
    /// The scopes with shares of their own, and those that were asked for much.
    pub scopes: Vec<ScopeReport>,
}

/// What a node says of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeReport {
    /// The scope.
    pub scope: ScopeId,
    /// What the node holds of its limit; the default when none.
    pub share: Option<Share>,
    /// What was asked for in the last second, granted or not, as a part of the limit.
    pub demand: Share,
    /// Whether the node could do with more.
    pub is_short: bool,
    /// What the node hands in, in nanoseconds of the limit.
    pub returned_ns: u32,
}

/// The leader's answer to a [`ShareReport`]: what is different from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// This answer.
    pub round: Round,
    /// What the node shall hold of every scope's limit that has no share of its own.
    pub default: Share,
    /// The scopes whose shares change.
    pub scopes: Vec<ScopeShare>,
}

/// A scope's share on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeShare {
    /// The scope.
    pub scope: ScopeId,
    /// The node's part of its limit; the default when none.
    pub share: Option<Share>,
    /// What the node is given at once, in nanoseconds of the limit.
    pub gift_ns: u32,
}
