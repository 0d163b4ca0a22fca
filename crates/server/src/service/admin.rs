//! Changes of keys, aliases and limits: acknowledged when they are in force everywhere.
//!
//! 1. The change is applied by the `values` group. From there on the Value Store refuses writes under what was before.
//! 2. The barrier: every node that may serve has applied it, and lets nobody in under what was before.
//! 3. The fence: requests that a node let in before are still on their way to the Cache, whose state knows no keys. Where
//!    the change takes something away, the running generation is told to refuse them. Behind the barrier, so that whoever
//!    is let in later passes; a generation that begins later has no such request, since each is bound to the generation
//!    that its node ran when it let it in.
//!
//! A read looks at its caller once more when it has the state that it answers from, and so shows nothing that was written
//! after the acknowledgement.

use std::time::Duration;

use state::{
    command::{Admin, Cleanup, Command, Fence, KeyRef},
    ids::{Keyspace, ScopeId},
    keys::LimitsPatch,
    outcome::{Done, Outcome},
};
use tokio::time::Instant;

use super::{Error, Service, unexpected};
use crate::peer::message::{Ask, Told};

/// How long the Cache may take to be told before it is told anew.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a change takes away from callers of the Cache.
enum Takes {
    /// Nothing.
    Nothing,
    /// Room, from the scope of this key.
    Room(KeyRef),
    /// An alias.
    Alias,
    /// The scope itself.
    Scope,
}

impl Takes {
    fn of(admin: &Admin) -> Self {
        match admin {
            Admin::CreateKey { .. } | Admin::CreateAlias { .. } => Self::Nothing,
            Admin::SetLimits(_, LimitsPatch { bytes_in_memory: None, .. }) => Self::Nothing,
            Admin::SetLimits(key, LimitsPatch { bytes_in_memory: Some(_), .. }) => Self::Room(key.clone()),
            Admin::DeleteAlias { .. } => Self::Alias,
            Admin::DeleteKey(_) => Self::Scope,
        }
    }
}

impl Service {
    /// A change of keys, aliases or limits.
    pub(crate) async fn administer(&self, admin: Admin, deadline: Instant) -> Result<(), Error> {
        let takes = Takes::of(&admin);
        let done = match self.values().submit(Command::Admin(admin), deadline).await? {
            Outcome::Done(done @ (Done::Accepted | Done::KeyDeleted { .. })) => done,
            Outcome::Refused(rejection) => {
                return Err(Error::Refused { rejection, keyspace: Keyspace::Values, revision: None });
            }
            Outcome::Done(
                done @ (Done::Purged { .. }
                | Done::Registered { .. }
                | Done::GenerationBegun { .. }
                | Done::RegistryChanged),
            ) => return Err(unexpected(&done)),
            Outcome::Data(_) => return Err(Error::Internal("an admin command was answered as a write".to_owned())),
        };
        let control_index = self.await_in_force(deadline).await?;
        let scope = match &done {
            Done::KeyDeleted { scope } => Some(*scope),
            _ => None,
        };
        let fence = |scope: ScopeId| Command::Fence(Fence { scope, control_index });
        let told = match (takes, scope) {
            (Takes::Nothing, _) | (Takes::Alias | Takes::Scope, None) => None,
            (Takes::Room(key), _) => self.scope_of(&key, deadline).await?.map(fence),
            (Takes::Alias, Some(scope)) => Some(fence(scope)),
            (Takes::Scope, Some(scope)) => Some(Command::Cleanup(Cleanup::CloseScope(scope))),
        };
        match told {
            Some(command) => self.tell_cache(&command, deadline).await,
            None => Ok(()),
        }
    }

    /// Returns when what was changed is in force on every node that may serve, with the index up to which they all have
    /// applied the log.
    async fn await_in_force(&self, deadline: Instant) -> Result<u64, Error> {
        while Instant::now() < deadline {
            let wait = deadline.saturating_duration_since(Instant::now());
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            match self.cluster.desk.ask_leader(Ask::Barrier { wait_ms }, wait).await {
                Told::InForce { index } => return Ok(index),
                // Another leader may know.
                _ => self.values().await_news(deadline).await,
            }
        }
        Err(Error::OutcomeUnknown)
    }

    /// The scope of a key; none when it was deleted meanwhile, which closes the scope.
    async fn scope_of(&self, key: &KeyRef, deadline: Instant) -> Result<Option<ScopeId>, Error> {
        let reader = self.values().read(deadline).await.map_err(|_| Error::OutcomeUnknown)?;
        Ok(reader.entity(key)?.map(|entity| entity.scope))
    }

    /// Has the running generation of the Cache apply a command that may be applied twice. While none runs there is nobody
    /// who could be told: the change is made then, and its acknowledgement waits.
    async fn tell_cache(&self, command: &Command, deadline: Instant) -> Result<(), Error> {
        while Instant::now() < deadline {
            let soon = deadline.min(Instant::now() + FENCE_WAIT_MAX);
            if let Some(cache) = self.cache()
                && let Ok(Outcome::Done(_)) = cache.group.submit(command.clone(), soon).await
            {
                return Ok(());
            }
            self.values().await_news(deadline).await;
        }
        Err(Error::OutcomeUnknown)
    }
}
