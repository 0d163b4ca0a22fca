//! Giving up on sending the log to a member that falls ever further behind.
//!
//! openraft keeps the log for a member for as long as it is sending it entries, however slowly that goes. So a member
//! that never gets as fast as the others would fill their disks. Past a bound the stream to it is broken: the log is
//! purged then, and the member takes a snapshot, which is never longer than the state.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::RaftMetrics;
use tokio::sync::watch;

use crate::{
    transport::wire::{Frames, Route, Wire, WireError},
    types::{MemberId, TypeConfig},
};

/// The members that are being sent entries before index `start`, as their leader knows them: the log still has what they
/// need. Those that it has not anyway take a snapshot already.
pub(crate) fn laggards(metrics: &RaftMetrics<TypeConfig>, start: u64) -> Vec<MemberId> {
    let purged = metrics.purged.as_ref().map(|last| last.index);
    let lags = |matched: u64| Some(matched) >= purged && matched + 1 < start;
    let matched = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
    let behind = matched.filter(|(_, matched)| matched.as_ref().is_some_and(|last| lags(last.index)));
    behind.map(|(id, _)| *id).collect()
}

/// Breaks streams to members. Clones are the same.
#[derive(Clone)]
pub(crate) struct Cuts(watch::Sender<BTreeMap<MemberId, u64>>);

impl Default for Cuts {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Cuts {
    /// Breaks every stream to this member that is open now.
    pub(crate) fn cut(&self, member: MemberId) {
        self.0.send_modify(|cuts| *cuts.entry(member).or_default() += 1);
    }

    /// Returns when a stream to `member` that is opened now is to be broken.
    fn next(&self, member: MemberId) -> BoxFuture<'static, ()> {
        let mut cuts = self.0.subscribe();
        let before = cuts.borrow().get(&member).copied();
        Box::pin(async move {
            if cuts.wait_for(|cuts| cuts.get(&member).copied() != before).await.is_err() {
                // The group has ended, and its streams end with it.
                std::future::pending().await
            }
        })
    }
}

/// A wire whose streams can be broken from this end.
#[derive(Clone)]
pub(crate) struct Cuttable<W> {
    pub(crate) wire: W,
    pub(crate) cuts: Cuts,
}

impl<W: Wire> Wire for Cuttable<W> {
    async fn call(
        &self,
        address: &str,
        route: Route,
        message: Bytes,
        wait_max: std::time::Duration,
    ) -> Result<Bytes, WireError> {
        self.wire.call(address, route, message, wait_max).await
    }

    async fn stream(
        &self,
        address: &str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> Result<Frames, WireError> {
        let cut = self.cuts.next(route.to);
        let answers = self.wire.stream(address, route, frames).await?;
        let until_cut = stream::unfold(Some((answers, cut)), |state| async move {
            let (mut answers, mut cut) = state?;
            tokio::select! {
                answer = answers.next() => Some((answer?, Some((answers, cut)))),
                () = &mut cut => Some((Err(WireError::Broken("the peer is too far behind".to_owned())), None)),
            }
        });
        Ok(until_cut.boxed())
    }
}
