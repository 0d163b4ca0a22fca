//! Makes tenants and deletes them, and moves the quotas of one, while clients use them.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use insidb_client::{ApiKey, Client, Code, Error, request::LimitsPatch};
use tokio::time::sleep;

use crate::{
    clients::{ANSWER_WAIT_MAX, PASSING, Purpose, Tenant, World},
    cluster::NODES,
    random::Random,
    record::{Bytes, Event},
    watch,
};

/// More than clients ever ask for.
const RATE: i64 = 10_000_000;
/// How long a tenant may take to be deleted when no fault is made any more.
const DELETE_WAIT_MAX: Duration = Duration::from_secs(90);
/// The pause before a call is made again.
const PACE: Duration = Duration::from_millis(100);
/// How many looks at a tenant's usage follow a change of its quotas.
const LOOKS: usize = 6;

/// Makes the operators' calls, at one node after another.
pub(crate) struct Operator<'a> {
    world: &'a World,
    admins: Vec<Client>,
    random: Random,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(world: &'a World, root_key: &str, stream: u64) -> anyhow::Result<Self> {
        let client = |node: &_| watch::client(*node, root_key, ANSWER_WAIT_MAX);
        let admins = world.nodes.iter().map(client).collect::<Result<_, _>>()?;
        Ok(Self { world, admins, random: Random::new(world.seed, stream) })
    }

    fn any(&mut self) -> usize {
        usize::try_from(self.random.below(NODES as u64)).unwrap_or(0)
    }

    /// Makes a tenant, at whatever node does it. None when the run is over before.
    pub(crate) async fn make(&mut self, name: &str, purpose: Purpose) -> anyhow::Result<Option<Tenant>> {
        let made = loop {
            if self.world.is_over() {
                return Ok(None);
            }
            let node = self.any();
            match self.admins[node].admin().create_key(name, None).await {
                Ok(made) => break made,
                // One that was made all the same has no client and no data.
                Err(error) => self.check(&error)?,
            }
            sleep(PACE).await;
        };
        let limits = LimitsPatch { rate_per_second_data_limit: Some(RATE), ..LimitsPatch::default() };
        while !self.world.is_over() {
            let node = self.any();
            match self.admins[node].admin().set_limits(ApiKey::Uuid(made.key_uuid.clone()), limits).await {
                Ok(()) => {
                    let tenant = Tenant { name: name.to_owned(), key: made.key, uuid: made.key_uuid, purpose };
                    self.world.tenants.write().unwrap_or_else(PoisonError::into_inner).push(tenant.clone());
                    return Ok(Some(tenant));
                }
                Err(error) => self.check(&error)?,
            }
            sleep(PACE).await;
        }
        Ok(None)
    }

    /// A refusal that a fault explains is none that is wrong.
    fn check(&self, error: &Error) -> anyhow::Result<()> {
        let is_explained = match error {
            Error::Refused(refusal) => matches!(
                refusal.code,
                Some(Code::NoLeader | Code::NoQuorum | Code::Overloaded | Code::DiskFull | Code::OutcomeUnknown)
            ),
            Error::OutcomeUnknown { refusal, .. } => {
                refusal.as_ref().is_none_or(|refusal| refusal.code == Some(Code::OutcomeUnknown))
            }
            Error::Unreachable { .. } | Error::Interrupted { .. } => true,
            Error::Config(_) | Error::UnexpectedAnswer { .. } => false,
        };
        if is_explained { Ok(()) } else { self.world.recorder.wrong(format!("an operator's call: {error}")) }
    }

    /// Tenants come and go, until the run is over.
    pub(crate) async fn come_and_go(mut self) -> anyhow::Result<()> {
        for n in 0.. {
            let Some(tenant) = self.make(&format!("{PASSING}{n}"), Purpose::Passing).await? else { break };
            let lifetime_ms = 2_000 + self.random.below(6_000);
            self.wait(lifetime_ms).await;
            self.delete(&tenant).await?;
            // Its clients go on with a key that is dead.
            self.wait(1_000).await;
            self.world.tenants.write().unwrap_or_else(PoisonError::into_inner).retain(|it| it.uuid != tenant.uuid);
        }
        Ok(())
    }

    async fn wait(&self, millis: u64) {
        for _ in 0..millis / 50 {
            if self.world.is_over() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes a tenant, at whatever node does it; goes on when the run is over, since no data of it may be left.
    async fn delete(&mut self, tenant: &Tenant) -> anyhow::Result<()> {
        let mut deadline = None;
        loop {
            if self.world.is_over()
                && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + DELETE_WAIT_MAX)
            {
                return self.world.recorder.wrong(format!("{} cannot be deleted in the end", tenant.name));
            }
            let node = self.any();
            let called_ns = self.world.recorder.now_ns();
            match self.admins[node].admin().delete_key(ApiKey::Uuid(tenant.uuid.clone())).await {
                Ok(()) => {
                    let returned_ns = self.world.recorder.now_ns();
                    self.world.deleted.lock().unwrap_or_else(PoisonError::into_inner).push(tenant.clone());
                    let tenant = tenant.name.clone();
                    return self.world.recorder.event(&Event::Deleted { tenant, called_ns, returned_ns });
                }
                // An earlier call did it, and was not answered: nothing was acknowledged.
                Err(error) if error.code() == Some(Code::ApiKeyNotFound) => return Ok(()),
                Err(error) => self.check(&error)?,
            }
            sleep(PACE).await;
        }
    }

    /// Moves a tenant's quotas around what it uses, until the run is over, and looks at its usage in between.
    pub(crate) async fn move_quotas(mut self, tenant: Tenant) -> anyhow::Result<()> {
        let clients: Vec<Client> = (self.world.nodes.iter())
            .map(|node| watch::client(*node, &tenant.key, ANSWER_WAIT_MAX))
            .collect::<Result<_, _>>()?;
        let mut used = Bytes { disk: 5_000, memory: 5_000 };
        while !self.world.is_over() {
            let around = |used: u64, random: &mut Random| used / 2 + random.below(used + 5_000);
            let quotas =
                Bytes { disk: around(used.disk, &mut self.random), memory: around(used.memory, &mut self.random) };
            self.set_quotas(&tenant, quotas).await?;
            for _ in 0..LOOKS {
                let node = self.any();
                let called_ns = self.world.recorder.now_ns();
                match clients[node].limits().await {
                    Ok(limits) => {
                        let returned_ns = self.world.recorder.now_ns();
                        used = Bytes { disk: limits.usage.bytes_on_disk, memory: limits.usage.bytes_in_memory };
                        let tenant = tenant.name.clone();
                        self.world.recorder.event(&Event::Usage {
                            tenant,
                            node,
                            called_ns,
                            returned_ns,
                            usage: used,
                        })?;
                    }
                    Err(error) => self.check(&error)?,
                }
                self.wait(200).await;
            }
        }
        Ok(())
    }

    async fn set_quotas(&mut self, tenant: &Tenant, quotas: Bytes) -> anyhow::Result<()> {
        let node = self.any();
        let limits = LimitsPatch {
            bytes_on_disk: i64::try_from(quotas.disk).ok(),
            bytes_in_memory: i64::try_from(quotas.memory).ok(),
            rate_per_second_data_limit: None,
        };
        let called_ns = self.world.recorder.now_ns();
        let returned_ns = match self.admins[node].admin().set_limits(ApiKey::Uuid(tenant.uuid.clone()), limits).await {
            Ok(()) => Some(self.world.recorder.now_ns()),
            Err(error) => {
                self.check(&error)?;
                match error {
                    // Surely not done.
                    Error::Refused(_) | Error::Unreachable { .. } => return Ok(()),
                    _ => None,
                }
            }
        };
        self.world.recorder.event(&Event::Quotas { tenant: tenant.name.clone(), called_ns, returned_ns, quotas })
    }
}

/// Ends what runs until the run is over.
pub(crate) fn end(world: &World) {
    world.stop.store(true, Ordering::Relaxed);
}
