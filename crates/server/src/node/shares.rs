//! The exchange of shares: each node's question, and the leader's answer (`rate.rs` says what for and why it is safe).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus::{Group, env::Env};
use state::ids::{NodeId, ScopeId};
use storage::disk::DiskEngine;
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    time::{Instant, sleep, sleep_until},
};

use super::{
    desk::Desk,
    timing::{RENEWAL, RENEWAL_WAIT_MAX, SHARES_HOLD, SHARES_PAUSE, SHARES_PAUSE_PER_SCOPE},
};
use crate::{
    peer::message::{Ask, ShareReport, Told},
    rate::{Holdings, Ledger},
};

/// The leader's side.
#[derive(Debug, Default)]
pub(super) struct ShareDesk {
    ledger: Mutex<Ledger>,
    news: Notify,
}

impl ShareDesk {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report down, and answers it when there is something to say, or a moment has passed. None when this node does
    /// not lead.
    pub(super) async fn answer(&self, desk: &Desk, report: ShareReport) -> Option<Told> {
        let node = report.node;
        let (term, members) = confirm(desk).await?;
        if !members.contains(&node) {
            return Some(Told::Refused(format!("node {node} is no member")));
        }
        let heard = {
            let mut ledger = self.ledger();
            ledger.enter(term, desk.now());
            ledger.hear(&report, desk.now())
        };
        if heard.is_news {
            self.news.notify_waiters();
        }
        let hold = sleep(SHARES_HOLD);
        tokio::pin!(hold);
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.ledger().has_news(node, &members, desk.now()) {
                break;
            }
            tokio::select! {
                () = &mut hold => break,
                () = news => {}
            }
        }
        // What is said now must not come from a leader that was followed by another meanwhile.
        let (still, members) = confirm(desk).await?;
        if still != term {
            return None;
        }
        let now = desk.now();
        let mut ledger = self.ledger();
        ledger.enter(term, now);
        let shares = if ledger.is_last(node, heard.visit) { ledger.answer(node, &members, now) } else { None };
        Some(shares.map_or(Told::Unknown, Told::Shares))
    }
}

/// Confirms that this node leads, since before this call: its term, and who belongs to the group.
async fn confirm(desk: &Desk) -> Option<(u64, BTreeSet<NodeId>)> {
    let confirmed = desk.lessor.confirm(RENEWAL_WAIT_MAX).await?;
    let members = desk.values.members().members.iter().map(|member| member.id.node).collect();
    Some((confirmed.term, members))
}

/// The node's side: the task that holds its shares.
pub(super) struct Sharer {
    pub(super) desk: Arc<Desk>,
    pub(super) values: Group<DiskEngine>,
    pub(super) env: Arc<dyn Env>,
    pub(super) holdings: Holdings,
    /// Scopes whose buckets send word.
    pub(super) called: UnboundedReceiver<ScopeId>,
}

impl Sharer {
    /// Exchanges for as long as the task lives.
    pub(super) async fn run(mut self) {
        let mut had_shares = false;
        loop {
            let began = Instant::now();
            let reported_at = self.env.monotonic();
            let report = self.holdings.report(reported_at);
            let has_shares = self.holdings.has_shares();
            if had_shares && !has_shares {
                tracing::warn!(
                    "the leader has not renewed this node's shares of the rate limits; it serves when it does"
                );
            }
            had_shares = has_shares;
            let desk = self.desk.clone();
            let asked = desk.ask_leader(Ask::Shares(report), RENEWAL_WAIT_MAX);
            let told = match self.listen(asked, began).await {
                Some(told) => told,
                // A bucket gets low: the leader shall know at once. The answer that was waited for is never taken.
                None => continue,
            };
            if let Told::Shares(shares) = told {
                self.holdings.take(shares, reported_at, self.env.monotonic());
                self.rest(began + self.pause()).await;
            } else {
                self.values.await_news(Instant::now() + RENEWAL).await;
            }
        }
    }

    /// The least time between two reports, by their length.
    fn pause(&self) -> Duration {
        SHARES_PAUSE + SHARES_PAUSE_PER_SCOPE * u32::try_from(self.holdings.len()).unwrap_or(u32::MAX)
    }

    /// Waits for the answer, and listens to the buckets meanwhile; none when one of them gets low.
    async fn listen(&mut self, asked: impl Future<Output = Told>, began: Instant) -> Option<Told> {
        tokio::pin!(asked);
        let mut is_urgent = false;
        loop {
            let may_ask_again = began + self.pause();
            tokio::select! {
                told = &mut asked => return Some(told),
                Some(scope) = self.called.recv() => is_urgent |= self.holdings.follow(scope),
                () = sleep_until(may_ask_again), if is_urgent => return None,
            }
        }
    }

    /// Listens to the buckets until then.
    async fn rest(&mut self, until: Instant) {
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Some(scope) = self.called.recv() => drop(self.holdings.follow(scope)),
            }
        }
    }
}
