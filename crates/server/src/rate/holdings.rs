//! The node's side of the exchange: what it holds, what it reports, and what it makes of the answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use state::ids::{NodeId, ScopeId};

use super::{Book, Bucket, SCOPES_MAX, Share, demand::Demand};
use crate::{
    node::timing::NODE_LEASE,
    peer::message::{Round, ScopeReport, ScopeShare, ShareReport, Shares},
};

/// A demand below this part of the limit, 0.01, is not worth a word: every node can serve it always.
const DEMAND_MIN: Share = Share(Share::WHOLE.0 / 100);

/// What a node holds. One task has it.
pub(crate) struct Holdings {
    node: NodeId,
    book: Arc<Book>,
    taken: Round,
    default: Share,
    scopes: HashMap<ScopeId, Holding>,
    /// Whether the last report was made under valid shares, which must be so still when the answer is taken.
    claimed: bool,
}

/// A scope that is in use, or has a share of its own.
struct Holding {
    bucket: Arc<Bucket>,
    share: Option<Share>,
    demand: Demand,
    returned_ns: u64,
}

impl Holdings {
    /// The node holds nothing yet.
    pub(crate) fn new(node: NodeId, book: Arc<Book>) -> Self {
        let (taken, default) = (Round::default(), Share::NONE);
        Self { node, book, taken, default, scopes: HashMap::new(), claimed: false }
    }

    /// Whether the node had shares when it reported last.
    pub(crate) fn has_shares(&self) -> bool {
        self.claimed
    }

    /// How many scopes are looked after.
    pub(crate) fn len(&self) -> usize {
        self.scopes.len()
    }

    /// What the node has of a scope's limit.
    #[cfg(test)]
    pub(super) fn share(&self, scope: &ScopeId) -> Share {
        self.scopes.get(scope).and_then(|holding| holding.share).unwrap_or(self.default)
    }

    /// Looks after a scope that has sent word; answers whether it gets low.
    pub(crate) fn follow(&mut self, scope: ScopeId) -> bool {
        let is_known = self.scopes.contains_key(&scope);
        let bucket = self.book.bucket(scope);
        if !is_known && self.scopes.len() >= SCOPES_MAX {
            bucket.leave_alone();
            return false;
        }
        let is_short = bucket.is_short();
        self.holding(scope);
        is_short
    }

    fn holding(&mut self, scope: ScopeId) -> &mut Holding {
        let book = &self.book;
        self.scopes.entry(scope).or_insert_with(|| Holding {
            bucket: book.bucket(scope),
            share: None,
            demand: Demand::default(),
            returned_ns: 0,
        })
    }

    /// What to tell the leader at the moment `now`.
    pub(crate) fn report(&mut self, now: Duration) -> ShareReport {
        let now_ns = nanos(now);
        self.claimed = self.book.is_valid(now_ns);
        if !self.claimed {
            self.lose_all(now_ns);
        }
        let mut lines = Vec::new();
        self.scopes.retain(|scope, holding| {
            let (asked, per_second) = holding.bucket.asked();
            let demand = Share::ratio(holding.demand.observe(now_ns, asked), per_second);
            let is_short = holding.bucket.report_short();
            let returned_ns = u32::try_from(std::mem::take(&mut holding.returned_ns)).unwrap_or(u32::MAX);
            let share = holding.share;
            if share.is_some() || is_short || demand >= DEMAND_MIN || returned_ns > 0 {
                lines.push(ScopeReport { scope: *scope, share, demand, is_short, returned_ns });
            }
            let is_in_use = share.is_some() || is_short || demand > Share::NONE;
            if !is_in_use {
                holding.bucket.leave_alone();
            }
            is_in_use
        });
        ShareReport { node: self.node, taken: self.taken, default: self.default, scopes: lines }
    }

    /// Takes up the answer to the report that was made at the moment `reported_at`.
    pub(crate) fn take(&mut self, told: Shares, reported_at: Duration, now: Duration) {
        let now_ns = nanos(now);
        let valid_until_ns = nanos(reported_at + NODE_LEASE);
        // What was reported may be another's by now.
        let is_late = self.claimed && !self.book.is_valid(now_ns);
        if is_late || now_ns >= valid_until_ns {
            return;
        }
        let Shares { round, default, scopes } = told;
        self.taken = round;
        if default != self.default {
            self.default = default;
            let own = &self.scopes;
            let has_own = |scope: &ScopeId| own.get(scope).is_some_and(|holding| holding.share.is_some());
            self.book.set_default(now_ns, default, has_own);
        }
        for ScopeShare { scope, share, gift_ns } in scopes {
            let holding = self.holding(scope);
            holding.share = share;
            holding.returned_ns += holding.bucket.set_share(now_ns, share.unwrap_or(default), u64::from(gift_ns));
        }
        self.book.extend(valid_until_ns);
    }

    /// The lease has run out, or there was none: everything may be another's by now.
    fn lose_all(&mut self, now_ns: u64) {
        self.default = Share::NONE;
        self.taken = Round::default();
        for holding in self.scopes.values_mut() {
            holding.share = None;
            holding.returned_ns = 0;
        }
        self.book.set_default(now_ns, Share::NONE, |_| false);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
