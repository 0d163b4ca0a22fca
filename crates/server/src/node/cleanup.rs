//! The removal of deleted scopes: what a deleted key's tenant stored, in both stores, in bounded steps.
//!
//! 1. Deleting a key leaves a mark in the `values` group, in the same entry: it survives restarts and changes of
//!    leader, and from then on no write to the scope's values is accepted.
//! 2. The cache group is told to refuse the scope; whatever was in flight is refused behind that.
//! 3. Both stores remove the scope's rows, a bounded number a step: each step is one entry between other tenants'.
//! 4. When neither store holds a row, the mark goes.
//!
//! Every step can be repeated, so a crash anywhere costs nothing but the repetition.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use arc_swap::ArcSwapOption;
use consensus::Group;
use state::{
    bounds::PURGE_ROWS_MAX,
    command::{Cleanup, Command},
    ids::ScopeId,
    outcome::{Done, Outcome},
};
use storage::{Engine, disk::DiskEngine};
use tokio::time::Instant;

use super::{cache::Cache, timing};

/// How often to look for scopes to remove when nobody has said that there are any.
const INTERVAL: Duration = Duration::from_secs(1);

/// Removes deleted scopes for as long as the task lives.
pub(crate) async fn run(values: Group<DiskEngine>, cache: Arc<ArcSwapOption<Cache>>) {
    let mut failing = false;
    loop {
        // Each step can be repeated, but three nodes that do the same at once do it for nothing.
        if !values.status().is_leader {
            tokio::time::sleep(INTERVAL).await;
            continue;
        }
        match remove_all(&values, &cache).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(error = format!("{error:#}"), "cannot remove deleted scopes yet; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn remove_all(values: &Group<DiskEngine>, cache: &ArcSwapOption<Cache>) -> anyhow::Result<()> {
    for scope in values.local().deletions()? {
        let Some(cache) = cache.load_full() else { return Ok(()) };
        step(&cache.group, Cleanup::CloseScope(scope)).await?;
        purge(&cache.group, scope).await?;
        purge(values, scope).await?;
        step(values, Cleanup::Finish(scope)).await?;
        tracing::info!(%scope, "removed a deleted scope");
    }
    Ok(())
}

async fn purge<E: Engine>(group: &Group<E>, scope: ScopeId) -> anyhow::Result<()> {
    loop {
        match step(group, Cleanup::Purge { scope, rows_max: PURGE_ROWS_MAX }).await? {
            Done::Purged { done: true, .. } => return Ok(()),
            Done::Purged { done: false, .. } => tokio::task::yield_now().await,
            other => bail!("a step of a scope's removal was answered with {other:?}"),
        }
    }
}

async fn step<E: Engine>(group: &Group<E>, step: Cleanup) -> anyhow::Result<Done> {
    match group.submit(Command::Cleanup(step), Instant::now() + timing::STEP_WAIT_MAX).await {
        Ok(Outcome::Done(done)) => Ok(done),
        Ok(Outcome::Refused(rejection)) => bail!("a step of a scope's removal was refused: {rejection}"),
        Ok(Outcome::Data(_)) => bail!("a step of a scope's removal was answered as a write"),
        Err(error) => Err(error.into()),
    }
}
