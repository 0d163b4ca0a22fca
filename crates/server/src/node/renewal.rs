//! The task that keeps this node's lease, and carries what travels with it.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use consensus::{Group, env::Env};
use storage::{Engine, disk::DiskEngine};
use tokio::{sync::watch, time::Instant};

use super::{
    cache::{Cache, driver::Words},
    desk::Desk,
    lease::Holder,
    timing::{RENEWAL, RENEWAL_WAIT_MAX},
};
use crate::peer::message::{Ask, Renewal, Renewed, Sample, Told};

/// What the task works with.
pub(super) struct Keeper {
    pub(super) desk: Arc<Desk>,
    pub(super) holder: Arc<Holder>,
    pub(super) values: Group<DiskEngine>,
    pub(super) cache: Arc<ArcSwapOption<Cache>>,
    pub(super) words: Arc<Words>,
    pub(super) env: Arc<dyn Env>,
    pub(super) leader_url: Arc<ArcSwap<String>>,
    pub(super) fault: watch::Sender<Option<String>>,
}

impl Keeper {
    /// Renews for as long as the task lives.
    pub(super) async fn run(self) {
        loop {
            let began = Instant::now();
            let next = if self.renew().await { began + RENEWAL } else { began };
            if next > Instant::now() {
                tokio::time::sleep_until(next).await;
            } else {
                self.values.await_news(Instant::now() + RENEWAL).await;
            }
        }
    }

    /// Asks once; answers whether the lease was granted.
    async fn renew(&self) -> bool {
        let asked_at = self.env.monotonic();
        let cache = self.cache.load_full();
        let renewal = Renewal {
            node: self.values.member().node,
            values: sample(&self.values),
            cache: cache.and_then(|cache| Some((cache.generation, sample(&cache.group)?))),
            suspects: self.words.suspects(),
        };
        let told = self.desk.ask_leader(Ask::Renew(renewal), RENEWAL_WAIT_MAX).await;
        let Told::Renewed(Renewed { granted, leader_public_url, drop_generation, diverged, .. }) = told else {
            return false;
        };
        if let Some(reason) = diverged {
            self.holder.give_up();
            tracing::error!(reason, "this node's state differs from the leader's: it goes out of service");
            self.fault.send_replace(Some(format!(
                "this node's state differs from the leader's: {reason}. Start it with an empty data directory to rebuild it"
            )));
            return false;
        }
        self.words.told_to_drop(drop_generation);
        if **self.leader_url.load() != leader_public_url {
            self.leader_url.store(Arc::new(leader_public_url));
        }
        if granted {
            self.holder.granted(asked_at);
        }
        granted
    }
}

fn sample<E: Engine>(group: &Group<E>) -> Option<Sample> {
    let applied = group.local().applied().ok()?;
    Some(Sample { index: applied.position?.index, hash: applied.state_hash })
}
