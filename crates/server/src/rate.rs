//! The request rate of each data scope: one limit for the whole cluster, and no network on a request's way.
//!
//! # What flows
//!
//! 1. A request takes a token from its scope's [`Bucket`] on the node that it reached: two atomic words.
//! 2. A bucket fills at the node's [`Share`] of the limit, and holds that share of the burst. A single node has all of it.
//! 3. [`Holdings`], the node's side, reports to the leader of the `values` group what each scope asked for lately, and
//!    what it holds. A bucket that gets low sends word at once.
//! 4. [`Ledger`], the leader's side, hears the reports and decides who gets what. It holds its answer back for a moment
//!    while there is no news, so that news travels in one way and not in the time between two reports.
//!
//! # Who gets what
//!
//! - A scope that is used little costs no share and no message: each node has an equal part of it, the *default*. Only
//!   when a bucket gets low does the leader keep a record of the scope and divide it by demand: what each node was asked
//!   for in the last second, granted or refused. Nodes that ask for less than an even part get that, the others divide
//!   the rest evenly; while the nodes together ask for less than the limit, all of it is divided in proportion.
//! - Nobody goes without: on top of that a node that asks for nothing has a *reserve*, 0.06 of the limit for all such
//!   nodes together. So the shares of a scope add up to 1.06 at most.
//! - A record ends after a minute without demand; then the default is in force again.
//! - At most [`SCOPES_MAX`] scopes are divided by demand, and as many are reported; what is more stays at the default. A
//!   report's length delays the next one, so 10,000 scopes that all want more cost each node 270 kB every quarter of a
//!   second (measured by the model; each such round took 40 ms of one core at most, for node and leader together).
//! - At a limit of one or two requests a second that are spread over several nodes, each has less than a request for most of
//!   the time, and its bucket may be full when the next request comes: such a client, when it asks for hardly more than its
//!   limit, gets 0.7 of it at worst (measured by the model, three nodes and a limit of 1). Through one node it gets 0.9.
//!
//! # Why the cluster keeps to the limit
//!
//! Let `L` be a scope's limit, and a bucket's content be what it could grant now.
//!
//! 1. *Lower first, raise after.* The leader keeps, for every node and scope, the most that the node may be using. It
//!    raises a share only into what is left of 1.06 then, and takes a lowered share for lowered only when the node's report
//!    says so, and the report proves by the number of the last answer that it was made after that. What a report
//!    proves nothing about can only add to what the node may be using.
//! 2. *A share is a lease.* It ends [`NODE_LEASE`] after the node asked, by the node's own clock, and is extended only by
//!    the next answer. From then on the node answers 503, and what it held is gone. The leader counts on it when the
//!    lease and a margin have passed since the report. An answer that comes when the lease is over is not taken.
//! 3. *A new leader knows no shares.* It takes them from the nodes' reports, and raises none before every member has
//!    reported or one lease and the margin have passed since it began. An answer is made only after the leadership was
//!    confirmed later than the question; a node has one question open at a time, and drops the answer to an older one. So
//!    no answer of an old leader can add to what a new one has heard.
//! 4. *Tokens are moved, not made.* A raised share adds no content; a lowered one takes away what does not fit, and the
//!    node hands that in. The leader passes it on with raised shares, and never keeps more than what is not shared out. A
//!    node whose process begins, or that has no lease, has nothing.
//!
//! So at every moment the contents of all buckets, and what the leader keeps, are at most `1.06 L` and one request a
//! node: a bucket holds 0.9 of a request more than its share of the burst, or one request where the share is less than
//! that. They grow by at most `1.06 L` a second. Hence all nodes together grant in any time `T` at most
//! `1.06 L (1 + T)` and one request a node; for 10 s that is `11.66 L`, where `docs/api.md` allows `L + 12 L`.
//! The 0.9 of a request is for small limits: a request that comes a hair too early and is refused would else leave a full
//! bucket that cannot take what flows in until the next one, and the client with half of its limit.
//!
//! # What goes wrong, and what it costs
//!
//! - A node dies: its share is back when its lease is over. A node joins: the others are lowered first.
//! - The leader dies: every node goes on with what it holds, for as long as the lease. What the dead node held is given out
//!   again a lease after its successor began.
//! - A message is lost: tokens that it carried are lost too; a second of the limit fills any bucket.
//! - A limit changes: shares are parts of it, so the change is in force with the limit itself.
//!
//! `rate/ledger/model.rs` checks all this under random schedules, and that the rules are needed.
//!
//! [`NODE_LEASE`]: crate::node::timing::NODE_LEASE

mod book;
mod bucket;
mod demand;
mod divide;
mod holdings;
mod ledger;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    book::Book,
    bucket::{Bucket, Limited, Refused},
    holdings::Holdings,
    ledger::Ledger,
};

/// How many scopes a node reports, and for how many a leader begins a record.
pub(crate) const SCOPES_MAX: usize = 16_384;

/// A part of a scope's limit: of the requests per second, and of the burst. In units of 2^-30.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub(crate) u32);

impl Share {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// All of it.
    pub(crate) const WHOLE: Self = Self(1 << 30);

    /// This part of `amount`, rounded down.
    pub(crate) fn of(self, amount: u64) -> u64 {
        u64::try_from((u128::from(amount) * u128::from(self.0)) >> 30).unwrap_or(u64::MAX)
    }

    /// An even part for each of `count`.
    pub(crate) fn even(count: usize) -> Self {
        Self(Self::WHOLE.0 / u32::try_from(count.max(1)).unwrap_or(u32::MAX))
    }

    /// `part` of `whole`; all of it where that is more.
    pub(crate) fn ratio(part: u64, whole: u64) -> Self {
        let units = (u128::from(part) * u128::from(Self::WHOLE.0)).checked_div(u128::from(whole)).unwrap_or(0);
        Self(u32::try_from(units).unwrap_or(u32::MAX).min(Self::WHOLE.0))
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Share {
    fn sum<I: Iterator<Item = Self>>(shares: I) -> Self {
        shares.fold(Self::NONE, Self::plus)
    }
}
