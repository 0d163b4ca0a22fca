//! The loop that keeps this node's part of the cache group right.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::bail;
use arc_swap::ArcSwapOption;
use consensus::{
    Error, Group,
    env::Env,
    transport::wire::Wire,
    types::{MemberId, Peer},
};
use state::{
    command::{Command, Registry},
    ids::NodeId,
    outcome::{Done, Outcome, Rejection},
    registry::{RegistryState, Standing},
};
use storage::disk::DiskEngine;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    Cache,
    decide::{Leads, Seen, Step, decide},
    member,
    suspicion::Doubt,
};
use crate::node::{
    end::{End, Ending},
    run_on,
    timing::{
        CHANGE_WAIT_MAX, CONTACT_AGE_MAX, HAND_OVER_PAUSE, HAND_OVER_WAIT_MAX, LOOK, NODE_LEASE, RAFT_LEASE_AND_MARGIN,
        STEP_WAIT_MAX,
    },
};

/// What lease renewals carry for the driver.
#[derive(Debug, Default)]
pub(crate) struct Words {
    inner: Mutex<(Option<u64>, Option<u64>)>,
}

impl Words {
    /// The generation that this process suspects.
    pub(crate) fn suspects(&self) -> Option<u64> {
        self.lock().0
    }

    /// The leader's word which generation to drop.
    pub(crate) fn told_to_drop(&self, generation: Option<u64>) {
        self.lock().1 = generation;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<u64>, Option<u64>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver of one process.
pub(crate) struct Driver<W> {
    /// The `values` group, which keeps the registry.
    pub(crate) values: Group<DiskEngine>,
    /// Where the others reach this node; empty when they cannot.
    pub(crate) address: String,
    /// This process's member; empty while there is none.
    pub(crate) cache: Arc<ArcSwapOption<Cache>>,
    /// The way to the other members.
    pub(crate) wire: W,
    /// Time and randomness.
    pub(crate) env: Arc<dyn Env>,
    /// Where the members' tasks run.
    pub(crate) runtime: Handle,
    /// What lease renewals carry.
    pub(crate) words: Arc<Words>,
    /// How long nothing good is heard of a generation before it is suspected.
    pub(crate) reset_after: Duration,
    /// The most bytes of keys and values that the cache may hold under this node's lead.
    pub(crate) bytes_max: u64,
    /// Told when a member stops on a fault.
    pub(crate) ending: Ending,
    /// What this process has registered as.
    pub(crate) incarnation: Option<u64>,
    /// Its suspicion.
    pub(crate) doubt: Doubt,
    /// The leadership, by generation and term, for which the registry was read.
    pub(crate) informed: Option<(u64, u64)>,
    /// When it last wanted another to lead the cache.
    pub(crate) handed_over: Option<Duration>,
}

impl<W: Wire> Driver<W> {
    /// Runs for as long as the task lives.
    pub(crate) async fn run(mut self) {
        let mut is_failing = false;
        loop {
            match self.step().await {
                Ok(true) => is_failing = false,
                Ok(false) => {
                    is_failing = false;
                    self.values.await_news(Instant::now() + LOOK).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(error = format!("{error:#}"), "a step of the cache group is tried again");
                    }
                    sleep(LOOK).await;
                }
            }
        }
    }

    /// One step; false when there was nothing to do.
    async fn step(&mut self) -> anyhow::Result<bool> {
        let registry = self.values.local().registry()?;
        let seen = self.look(registry);
        match decide(&seen) {
            Step::Wait => return Ok(false),
            Step::Register { previous } => self.register(previous).await?,
            Step::Start(start) => {
                self.end().await;
                tracing::info!(generation = start.generation, member = %start.member, "starting in the cache group");
                // A member that fails to start has been one all the same: it never starts again under this name (rule 2).
                let incarnation = self.incarnation.take();
                let starting = member::start(start, self.peers(), self.bytes_max, self.wire.clone(), self.env.clone());
                let cache = run_on(&self.runtime, starting).await?;
                self.incarnation = incarnation;
                let cache = Arc::new(cache);
                self.cache.store(Some(cache.clone()));
                self.watch(cache);
            }
            Step::Propose(change) => self.propose(change).await?,
            // The leadership is the one that was seen: one that begins meanwhile needs a reading of its own.
            Step::ReadRegistry { generation, term } => {
                self.values.read(Instant::now() + STEP_WAIT_MAX).await?;
                self.informed = Some((generation, term));
            }
            Step::AddLearner(id) => {
                let peer = self.peers().remove(&id.node).unwrap_or_default();
                change(self.group()?.add_learner(id, peer)).await?;
            }
            Step::SetVoters(voters) => change(self.group()?.set_voters(voters)).await?,
            Step::RemoveLearner(id) => change(self.group()?.remove_learner(id)).await?,
            Step::Report { generation, change, voters } => self.report(generation, change, voters).await?,
            Step::HandOver => {
                tracing::debug!("this node hears nothing of the values group: another one is to lead the cache");
                self.handed_over = Some(self.env.monotonic());
                self.group()?.hand_over(HAND_OVER_WAIT_MAX).await;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look(&mut self, registry: RegistryState) -> Seen {
        let node = self.values.member().node;
        let cache = self.cache.load_full();
        let quorum_age = cache.as_ref().and_then(|cache| cache.group.quorum_age());
        let values_confirmed = self.values.quorum_age().is_some_and(|age| age <= CONTACT_AGE_MAX);
        let suspects = match registry.nodes.get(&node) {
            Some(Standing::In { generation, .. }) => {
                let now = self.env.monotonic();
                self.doubt.look(*generation, quorum_age, values_confirmed, now, self.reset_after)
            }
            Some(Standing::Out { .. } | Standing::Unregistered) | None => {
                // Once it is in, it gives the generation its whole time, whatever it thought of it before.
                self.doubt = Doubt::default();
                false
            }
        };
        let drop_generation = {
            let mut words = self.words.lock();
            words.0 = suspects.then_some(registry.generation);
            words.1
        };
        Seen {
            node,
            incarnation: self.incarnation,
            leads_values: self.values.status().is_leader,
            generation: cache.as_ref().map(|cache| cache.generation),
            leads: cache.and_then(|cache| leads(&cache, quorum_age, self.informed)),
            drop_generation,
            suspects,
            hears_values: self.values.quorum_age().is_some_and(|age| age <= NODE_LEASE) || self.has_handed_over(),
            registry,
        }
    }

    /// Whether it wanted another to lead the cache a short while ago: where nobody hears of `values`, the leadership would go
    /// round and round.
    fn has_handed_over(&self) -> bool {
        self.handed_over.is_some_and(|at| self.env.monotonic().saturating_sub(at) < HAND_OVER_PAUSE)
    }

    fn group(&self) -> anyhow::Result<Group<storage::memory::MemoryEngine>> {
        match self.cache.load_full() {
            Some(cache) => Ok(cache.group.clone()),
            None => bail!("the member has ended meanwhile"),
        }
    }

    /// Where the nodes are reached. Of itself a node knows better than the group, which may not have heard of a new address.
    fn peers(&self) -> BTreeMap<NodeId, Peer> {
        let members = self.values.members().members.into_iter().map(|member| (member.id.node, member.peer));
        let own = (self.values.member().node, Peer { address: self.address.clone() });
        members.chain([own]).collect()
    }

    /// Ends this process's member: from here on it acknowledges nothing.
    async fn end(&self) {
        if let Some(cache) = self.cache.swap(None) {
            cache.group.shutdown().await;
        }
    }

    /// Rule 1: the former member has ended before it is declared to have.
    async fn register(&mut self, previous: Option<u64>) -> anyhow::Result<()> {
        self.incarnation = None;
        self.end().await;
        let node = self.values.member().node;
        let nonce = self.env.random_u64();
        let command = Command::Registry(Registry::Register { node, previous, nonce });
        match self.values.submit(command, Instant::now() + STEP_WAIT_MAX).await {
            Ok(Outcome::Done(Done::Registered { node: of, incarnation, nonce: answered }))
                if of == node && answered == nonce =>
            {
                self.await_applied(|registry| {
                    registry.nodes.get(&node).and_then(|standing| standing.incarnation()) >= Some(incarnation)
                })
                .await?;
                self.incarnation = Some(incarnation);
                Ok(())
            }
            // An incarnation whose answer was lost is nobody's: the next attempt sees it as the former one.
            Err(Error::OutcomeUnknown) | Ok(Outcome::Refused(Rejection::RegistryConflict)) => {
                self.values.read(Instant::now() + STEP_WAIT_MAX).await?;
                Ok(())
            }
            Ok(other) => bail!("the values group answered the cache's registration with {other:?}"),
            Err(error) => Err(error.into()),
        }
    }

    /// A refusal means that the registry has moved on: what it says now is waited for.
    async fn propose(&self, change: Registry) -> anyhow::Result<()> {
        self.values.submit(Command::Registry(change), Instant::now() + STEP_WAIT_MAX).await?;
        self.values.read(Instant::now() + STEP_WAIT_MAX).await?;
        Ok(())
    }

    /// Rule 5: the next change of the node set builds on this report, so it must hold whatever this member does not know.
    /// A quorum confirms the leadership after the registry was looked at: whoever leads later then learns of this change
    /// before it touches the voters, and leaves them the node set's for as long as the change is the last one.
    async fn report(&self, generation: u64, change: u64, voters: BTreeSet<MemberId>) -> anyhow::Result<()> {
        let confirmed = self.group()?.confirmed_voters(Instant::now() + CHANGE_WAIT_MAX).await?;
        if confirmed != Some(voters) {
            bail!("the voters of the cache group have changed while they were to be reported");
        }
        self.propose(Registry::Settle { generation, change }).await
    }

    async fn await_applied(&self, holds: impl Fn(&RegistryState) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + STEP_WAIT_MAX;
        while !holds(&self.values.local().registry()?) {
            if Instant::now() >= until {
                bail!("this node does not apply what the leader has committed");
            }
            self.values.await_news(until).await;
        }
        Ok(())
    }

    /// Reports a fault of this member, unless it was ended on purpose: then it is not the running one any more. The next
    /// generation's may have its name.
    fn watch(&self, watched: Arc<Cache>) {
        let (running, ending) = (self.cache.clone(), self.ending.clone());
        tokio::spawn(async move {
            let said = watched.group.fault().await;
            if running.load_full().is_some_and(|running| Arc::ptr_eq(&running, &watched)) {
                ending.send_replace(Some(End::Fault(said)));
            }
        });
    }
}

/// A change of the group's members, given up when it takes too long. Without a quorum it would be waited for as long as
/// this member leads, and its suspicion, the word to drop and the next generation would wait with it. What becomes of
/// the change is seen at the next look.
async fn change(change: impl Future<Output = Result<(), Error>>) -> anyhow::Result<()> {
    match timeout(CHANGE_WAIT_MAX, change).await {
        Ok(done) => Ok(done?),
        Err(_) => bail!("a change of the cache group's members takes too long"),
    }
}

/// What the member sees, when it leads and has had a quorum lately.
fn leads(cache: &Cache, quorum_age: Option<Duration>, informed: Option<(u64, u64)>) -> Option<Leads> {
    let status = cache.group.status();
    let has_quorum = quorum_age.is_some_and(|age| age <= RAFT_LEASE_AND_MARGIN);
    (status.is_leader && has_quorum).then(|| Leads {
        members: cache.group.members(),
        last_index: status.last_index,
        term: status.term,
        is_informed: informed == Some((cache.generation, status.term)),
    })
}
