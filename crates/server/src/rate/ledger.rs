//! The leader's side of the exchange: who holds what of which limit, and who shall.
//!
//! For every node the ledger keeps what it reported to hold, and the most that it may be using: what it was told
//! since, and whatever a report that proves nothing has claimed. Shares are raised into what the *most* of all nodes leave;
//! `rate.rs` has the argument.

#[cfg(test)]
mod model;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use state::ids::{NodeId, ScopeId};

use super::{
    SCOPES_MAX, Share,
    bucket::SECOND_NS,
    divide::{divide, sum_max},
};
use crate::{
    node::timing::{NODE_LEASE, NODE_LEASE_MARGIN},
    peer::message::{Round, ScopeReport, ScopeShare, ShareReport, Shares},
};

/// How long a scope without demand keeps the shares that it has.
const FORGET: Duration = Duration::from_secs(60);
/// Targets move by at least this part of the limit, 1/32, lest each request move them.
const STEP: Share = Share(Share::WHOLE.0 / 32);

/// What the leader of one term knows of shares.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    term: u64,
    began_at: Duration,
    visits: u64,
    nodes: Nodes,
    records: HashMap<ScopeId, Record>,
}

/// The nodes that may hold something.
type Nodes = BTreeMap<NodeId, Standing>;

/// A node.
#[derive(Debug, Default)]
struct Standing {
    /// Its last report.
    visit: u64,
    /// The last answer that it was given; 0 is none.
    answer: u64,
    /// Whether its last report proves what it holds.
    is_proved: bool,
    /// When it holds nothing any more, if it does not report again.
    ends_at: Duration,
    /// The default: as it was reported, and the most that it may be.
    held: Share,
    most: Share,
}

/// A scope that is divided by demand.
#[derive(Debug)]
struct Record {
    parts: BTreeMap<NodeId, Part>,
    /// What was handed in and not given out yet, in nanoseconds of the limit.
    kept_ns: u64,
    /// When there was demand last.
    wanted_at: Duration,
}

/// What a node has of a scope.
#[derive(Debug)]
struct Part {
    /// As it was reported; the default when none.
    held: Option<Share>,
    /// The most that its own share may be; none when it has none.
    own_most: Option<Share>,
    /// Whether it may be using the default.
    may_be_default: bool,
    demand: Share,
    /// What it shall have; what it has, when none.
    target: Option<Share>,
}

impl Part {
    fn at_default() -> Self {
        Self { held: None, own_most: None, may_be_default: true, demand: Share::NONE, target: None }
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The report's number, by which it is answered.
    pub(crate) visit: u64,
    /// Whether there may be news for the other nodes.
    pub(crate) is_news: bool,
}

impl Ledger {
    /// Begins anew when `term` is another one.
    pub(crate) fn enter(&mut self, term: u64, now: Duration) {
        if term != self.term {
            *self = Self { term, began_at: now, ..Self::default() };
        }
    }

    /// Takes a report down. The leader has confirmed its leadership since it was sent.
    pub(crate) fn hear(&mut self, report: &ShareReport, now: Duration) -> Heard {
        let mut is_news = self.expire(now);
        self.visits += 1;
        let visit = self.visits;
        let is_new = !self.nodes.contains_key(&report.node);
        let standing = self.nodes.entry(report.node).or_default();
        standing.visit = visit;
        standing.ends_at = now + NODE_LEASE + NODE_LEASE_MARGIN;
        standing.is_proved = standing.answer != 0 && report.taken == Round { term: self.term, number: standing.answer };
        is_news |= is_new || standing.held != report.default;
        standing.held = report.default;
        standing.most = if standing.is_proved { report.default } else { standing.most.max(report.default) };
        is_news |= self.hear_scopes(report, now);
        if is_new {
            for record in self.records.values_mut() {
                record.aim(&self.nodes, true);
            }
        }
        Heard { visit, is_news }
    }

    fn hear_scopes(&mut self, report: &ShareReport, now: Duration) -> bool {
        let mut is_news = false;
        let mut lines: HashMap<ScopeId, &ScopeReport> = report.scopes.iter().map(|line| (line.scope, line)).collect();
        let nodes = &self.nodes;
        self.records.retain(|scope, record| {
            is_news |= record.hear(report.node, lines.remove(scope), nodes, now);
            !record.is_over(nodes, now)
        });
        for (scope, line) in lines {
            // Shares that another leader gave are taken over whatever their number; it gave no more than this one would.
            if line.share.is_some() || (line.is_short && self.records.len() < SCOPES_MAX) {
                let mut record = Record { parts: BTreeMap::new(), kept_ns: 0, wanted_at: now };
                record.hear(report.node, Some(line), nodes, now);
                self.records.insert(scope, record);
                is_news = true;
            }
        }
        is_news
    }

    /// Nodes whose lease is over hold nothing. Answers whether there were any.
    fn expire(&mut self, now: Duration) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|_, standing| now < standing.ends_at);
        let is_news = self.nodes.len() != before;
        if is_news {
            for record in self.records.values_mut() {
                record.parts.retain(|node, _| self.nodes.contains_key(node));
                record.aim(&self.nodes, true);
            }
        }
        is_news
    }

    /// Whether all shares are known that may be in use. A node that was removed may hold some, but serves nothing: it had no
    /// node lease any more when it was removed.
    fn is_ready(&self, members: &BTreeSet<NodeId>, now: Duration) -> bool {
        now >= self.began_at + NODE_LEASE + NODE_LEASE_MARGIN
            || members.iter().all(|member| self.nodes.contains_key(member))
    }

    /// Whether the report is the node's last; another one would be answered instead.
    pub(crate) fn is_last(&self, node: NodeId, visit: u64) -> bool {
        self.nodes.get(&node).is_some_and(|standing| standing.visit == visit)
    }

    /// Whether there is something to say to the node.
    pub(crate) fn has_news(&self, node: NodeId, members: &BTreeSet<NodeId>, now: Duration) -> bool {
        let Some(standing) = self.nodes.get(&node) else { return false };
        let is_ready = self.is_ready(members, now);
        !standing.is_proved
            || self.default_wish(node, is_ready).is_some()
            || self.records.values().any(|record| record.wish(node, &self.nodes, is_ready, now).is_some())
    }

    /// The answer to the node's last report. The leader has confirmed its leadership since that was sent.
    pub(crate) fn answer(&mut self, node: NodeId, members: &BTreeSet<NodeId>, now: Duration) -> Option<Shares> {
        self.expire(now);
        let is_ready = self.is_ready(members, now);
        let wish = self.nodes.contains_key(&node).then(|| self.default_wish(node, is_ready)).flatten();
        let standing = self.nodes.get_mut(&node)?;
        standing.answer = standing.visit;
        let round = Round { term: self.term, number: standing.answer };
        let default = wish.unwrap_or(standing.held);
        standing.most = standing.most.max(default);
        let nodes = &self.nodes;
        let told = self.records.iter_mut().filter_map(|(scope, record)| {
            let share = record.wish(node, nodes, is_ready, now)?;
            let gift_ns = record.tell(node, share, nodes);
            Some(ScopeShare { scope: *scope, share, gift_ns })
        });
        Some(Shares { round, default, scopes: told.collect() })
    }

    /// What the node's default shall be, when it is something else.
    fn default_wish(&self, node: NodeId, is_ready: bool) -> Option<Share> {
        let standing = self.nodes.get(&node)?;
        let target = Share::even(self.nodes.len());
        if !is_ready || target == standing.held {
            return None;
        }
        if target < standing.held {
            return Some(target);
        }
        let others: Share = self.nodes.iter().filter(|(other, _)| **other != node).map(|(_, other)| other.most).sum();
        let by_records = self.records.values().filter(|record| record.may_be_default(node));
        let room = by_records.map(|record| record.room(node, &self.nodes)).min().unwrap_or(Share::WHOLE);
        raised(standing.held, target, room.min(Share::WHOLE.minus(others)))
    }
}

/// What a share that shall be raised to `target` can be raised to; none where that is not worth it yet.
fn raised(held: Share, target: Share, room: Share) -> Option<Share> {
    let share = target.min(room);
    (share > held && (share == target || share.minus(held) >= STEP)).then_some(share)
}

impl Record {
    fn hear(&mut self, node: NodeId, line: Option<&ScopeReport>, nodes: &Nodes, now: Duration) -> bool {
        let part = self.parts.entry(node).or_insert_with(Part::at_default);
        let share = line.and_then(|line| line.share);
        let is_proved = nodes.get(&node).is_some_and(|standing| standing.is_proved);
        let mut is_news = part.held != share || !is_proved;
        part.held = share;
        part.own_most = if is_proved { share } else { part.own_most.max(share) };
        part.may_be_default = share.is_none() || (part.may_be_default && !is_proved);
        part.demand = line.map_or(Share::NONE, |line| line.demand);
        if let Some(line) = line {
            if line.is_short || line.demand > Share::NONE {
                self.wanted_at = now;
            }
            self.kept_ns += u64::from(line.returned_ns);
            if line.is_short {
                is_news |= self.aim(nodes, false);
            }
        }
        self.keep_what_is_left(nodes);
        is_news
    }

    /// Divides the limit by demand; answers whether that changes much. Else the targets stay, unless it is forced.
    fn aim(&mut self, nodes: &Nodes, is_forced: bool) -> bool {
        let demands: Vec<Share> =
            nodes.keys().map(|node| self.parts.get(node).map_or(Share::NONE, |part| part.demand)).collect();
        let targets = divide(&demands);
        let differs = |(node, target): (&NodeId, &Share)| {
            let now = self.parts.get(node).and_then(|part| part.target);
            now.is_none_or(|now| now.0.abs_diff(target.0) >= STEP.0)
        };
        let is_news = is_forced || nodes.keys().zip(&targets).any(differs);
        if is_news {
            for (node, target) in nodes.keys().zip(targets) {
                self.parts.entry(*node).or_insert_with(Part::at_default).target = Some(target);
            }
        }
        is_news
    }

    /// Whether nobody asks any more: the default comes back.
    fn goes_home(&self, now: Duration) -> bool {
        now >= self.wanted_at + FORGET
    }

    /// Whether every node is back at the default.
    fn is_over(&self, nodes: &Nodes, now: Duration) -> bool {
        let is_back = |part: &Part| part.held.is_none() && part.own_most.is_none() && part.may_be_default;
        self.goes_home(now) && nodes.keys().all(|node| self.parts.get(node).is_none_or(is_back))
    }

    fn may_be_default(&self, node: NodeId) -> bool {
        self.parts.get(&node).is_none_or(|part| part.may_be_default)
    }

    /// The most that a node may be using.
    fn most(&self, node: NodeId, standing: &Standing) -> Share {
        let own = self.parts.get(&node).and_then(|part| part.own_most).unwrap_or(Share::NONE);
        if self.may_be_default(node) { own.max(standing.most) } else { own }
    }

    /// What the others leave for a node at most.
    fn room(&self, node: NodeId, nodes: &Nodes) -> Share {
        let others = nodes.iter().filter(|(other, _)| **other != node);
        sum_max(nodes.len()).minus(others.map(|(other, standing)| self.most(*other, standing)).sum())
    }

    fn keep_what_is_left(&mut self, nodes: &Nodes) {
        let used: Share = nodes.iter().map(|(node, standing)| self.most(*node, standing)).sum();
        self.kept_ns = self.kept_ns.min(Share::WHOLE.minus(used).of(SECOND_NS));
    }

    /// What the node's share shall be, when it is something else: one of its own, or none.
    fn wish(&self, node: NodeId, nodes: &Nodes, is_ready: bool, now: Duration) -> Option<Option<Share>> {
        let standing = nodes.get(&node)?;
        let own = self.parts.get(&node).and_then(|part| part.held);
        if !is_ready || (self.goes_home(now) && own.is_none()) {
            return None;
        }
        let held = own.unwrap_or(standing.held);
        let room = self.room(node, nodes);
        let target = if self.goes_home(now) {
            if own == Some(standing.held) {
                // It may rise to the default's most then.
                return (standing.most <= room).then_some(None);
            }
            standing.held
        } else {
            self.parts.get(&node).and_then(|part| part.target)?
        };
        let share = if target < held { Some(target) } else { raised(held, target, room) };
        // With a share of its own, however large, a node stands in no default's way.
        share.or_else(|| own.is_none().then_some(held)).map(Some)
    }

    /// Notes what a node is told; answers what it is given with it.
    fn tell(&mut self, node: NodeId, share: Option<Share>, nodes: &Nodes) -> u32 {
        let part = self.parts.entry(node).or_insert_with(Part::at_default);
        let default = nodes.get(&node).map_or(Share::NONE, |standing| standing.held);
        let rise = share.unwrap_or(default).minus(part.held.unwrap_or(default));
        match share {
            Some(_) => part.own_most = part.own_most.max(share),
            None => part.may_be_default = true,
        }
        let gift_ns = self.kept_ns.min(rise.of(SECOND_NS));
        self.kept_ns -= gift_ns;
        self.keep_what_is_left(nodes);
        u32::try_from(gift_ns).unwrap_or(u32::MAX)
    }
}
