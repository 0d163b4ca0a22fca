//! The task that keeps this node's lease, and carries what travels with it.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use consensus::{Group, env::Env};
use storage::{Engine, disk::DiskEngine};
use tokio::time::Instant;

use super::{
    cache::{Cache, driver::Words},
    desk::Desk,
    end::Ending,
    lease::Holder,
    timing::{RENEWAL, RENEWAL_WAIT_MAX},
};
use crate::peer::message::{Ask, Renewal, Renewed, Sample, Told};

/// What the task works with.
pub(super) struct Keeper {
    pub(super) desk: Arc<Desk>,
    /// Which process this is.
    pub(super) process: u64,
    pub(super) holder: Arc<Holder>,
    pub(super) values: Group<DiskEngine>,
    pub(super) cache: Arc<ArcSwapOption<Cache>>,
    pub(super) words: Arc<Words>,
    pub(super) env: Arc<dyn Env>,
    pub(super) leader_url: Arc<ArcSwap<String>>,
    pub(super) ending: Ending,
}

impl Keeper {
    /// Renews for as long as the task lives.
    pub(super) async fn run(self) {
        loop {
            let began = Instant::now();
            let next = match self.renew().await {
                Asked::Settled => began + RENEWAL,
                Asked::Again => began,
            };
            if next > Instant::now() {
                tokio::time::sleep_until(next).await;
            } else {
                self.values.await_news(Instant::now() + RENEWAL).await;
            }
        }
    }

    /// Asks once.
    async fn renew(&self) -> Asked {
        let asked_at = self.env.monotonic();
        let cache = self.cache.load_full();
        let renewal = Renewal {
            node: self.values.member().node,
            values: sample(&self.values),
            cache: cache.and_then(|cache| Some((cache.generation, sample(&cache.group)?))),
            suspects: self.words.suspects(),
            process: self.process,
            // Not the sample's index: a state is visible a moment before it is made known that it has changed, by which
            // callers that were looked up before are looked up again.
            applied: self.values.status().applied_index,
            is_disk_full: self.values.is_disk_full(),
        };
        let told = self.desk.ask_leader(Ask::Renew(renewal), RENEWAL_WAIT_MAX).await;
        let Told::Renewed(renewed) = told else {
            // The word to drop a generation is about those who suspect it now.
            self.words.told_to_drop(None);
            return Asked::Again;
        };
        let Renewed { granted, floor: _, leader_public_url, drop_generation, condemned, is_doubted } = renewed;
        if let Some(condemned) = condemned {
            self.holder.give_up();
            self.ending.send_replace(Some(condemned.into()));
            return Asked::Settled;
        }
        if is_doubted {
            self.holder.suspend();
        }
        self.words.told_to_drop(drop_generation);
        if **self.leader_url.load() != leader_public_url {
            self.leader_url.store(Arc::new(leader_public_url));
        }
        if granted {
            self.holder.granted(asked_at);
        }
        if granted || is_doubted { Asked::Settled } else { Asked::Again }
    }
}

/// When to ask next.
enum Asked {
    /// When it is time to.
    Settled,
    /// As soon as something may be new.
    Again,
}

fn sample<E: Engine>(group: &Group<E>) -> Option<Sample> {
    let applied = group.local().applied().ok()?;
    Some(Sample { index: applied.position?.index, hash: applied.state_hash })
}
