//! What is read when the faults are over and the clients have ended: everything, through every node.

use std::{
    collections::BTreeSet,
    sync::PoisonError,
    time::{Duration, Instant},
};

use insidb_client::{Client, Code, Error, Keyspace, Store as Sdk};
use insidb_oracle::{Request, Store};
use tokio::time::sleep;

use crate::{
    clients::{ANSWER_WAIT_MAX, CLIENTS_PER_NODE, Heard, PREFIX, Place, Purpose, Tenant, World, ask_and_record},
    cluster::NODES,
    nemesis::WHOLE_WAIT_MAX,
    record::{Bytes, Event},
    watch::{self, Watch},
};

/// How long a cluster at rest may refuse a read, and may take until the data of deleted tenants is gone.
const REST_WAIT_MAX: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(50);
/// The number of the client that reads everything in the end.
const READER: usize = NODES * CLIENTS_PER_NODE;

/// Waits until the cluster is whole, and reads everything.
pub(crate) async fn close(world: &World, watch: &Watch) -> anyhow::Result<()> {
    if let Err(missing) = watch.await_whole(WHOLE_WAIT_MAX).await {
        return world.recorder.wrong(format!("not whole within {WHOLE_WAIT_MAX:?} in the end: {missing}"));
    }
    world.recorder.event(&Event::Closing { at_ns: world.recorder.now_ns() })?;
    let living: Vec<Tenant> = world.tenants().into_iter().filter(|it| it.purpose != Purpose::Passing).collect();
    let deleted = world.deleted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut total = Bytes::default();
    for node in 0..NODES {
        total = Bytes::default();
        for tenant in &living {
            let client = watch::client(world.nodes[node], &tenant.key, ANSWER_WAIT_MAX)?;
            let usage = read_tenant(world, &client, node, tenant).await?;
            total = Bytes { disk: total.disk + usage.disk, memory: total.memory + usage.memory };
        }
        for tenant in &deleted {
            let client = watch::client(world.nodes[node], &tenant.key, ANSWER_WAIT_MAX)?;
            let answer = until_served(async || client.values().get("k/sum").await).await;
            let code = answer.map_or_else(|error| said(&error), |_| "served".to_owned());
            world.recorder.event(&Event::DeletedAnswers { tenant: tenant.name.clone(), node, code })?;
        }
    }
    for (node, client) in watch.clients.iter().enumerate() {
        let stored = await_stored(client, total).await.unwrap_or_default();
        world.recorder.event(&Event::Stored { node, stored })?;
    }
    let Some(cluster) = watch.await_level(REST_WAIT_MAX).await else {
        return world.recorder.wrong("nobody tells of the cluster in the end");
    };
    for (node, member) in cluster.nodes.into_iter().enumerate() {
        let groups = [("values", Some(member.values)), ("cache", member.cache)];
        for (group, member) in groups {
            let (applied_index, hash) = member.map_or((None, None), |it| (it.applied_index, it.state_hash));
            world.recorder.event(&Event::State { node, group: group.to_owned(), applied_index, hash })?;
        }
    }
    Ok(())
}

/// Reads every key that a tenant may have, lists those that it has, and asks for its usage.
async fn read_tenant(world: &World, client: &Client, node: usize, tenant: &Tenant) -> anyhow::Result<Bytes> {
    let places: BTreeSet<Place> = world.places.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for place in places.iter().filter(|(_, name, _)| *name == tenant.name) {
        let deadline = Instant::now() + REST_WAIT_MAX;
        loop {
            match ask_and_record(world, client, node, READER, place, Request::Get).await? {
                Heard::Answer(..) => break,
                Heard::Refused(reason) | Heard::Unreachable(reason) | Heard::Unknown(reason) => {
                    if Instant::now() > deadline {
                        world.recorder.wrong(format!("node {node} does not answer at rest: {reason}"))?;
                        return Ok(Bytes::default());
                    }
                }
            }
            sleep(PACE).await;
        }
    }
    list(world, &client.values(), Store::Values, node, tenant).await?;
    list(world, &client.cache(), Store::Cache, node, tenant).await?;
    match until_served(async || client.limits().await).await {
        Ok(limits) => {
            let usage = Bytes { disk: limits.usage.bytes_on_disk, memory: limits.usage.bytes_in_memory };
            world.recorder.event(&Event::ClosingUsage { tenant: tenant.name.clone(), node, usage })?;
            Ok(usage)
        }
        Err(error) => {
            world.recorder.wrong(format!("node {node} tells no usage at rest: {}", said(&error)))?;
            Ok(Bytes::default())
        }
    }
}

async fn list<S: Keyspace>(
    world: &World,
    sdk: &Sdk<S>,
    store: Store,
    node: usize,
    tenant: &Tenant,
) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    let mut cursor = sdk.keys(PREFIX);
    loop {
        match cursor.next().await {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => break,
            Err(error) => return world.recorder.wrong(format!("node {node} does not list at rest: {}", said(&error))),
        }
    }
    world.recorder.event(&Event::Listed { tenant: tenant.name.clone(), store, node, keys })
}

/// Asks again while it is refused for the moment.
async fn until_served<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + REST_WAIT_MAX;
    loop {
        match ask().await {
            Err(error) if error.is_retry_safe() && Instant::now() < deadline => sleep(PACE).await,
            result => return result,
        }
    }
}

fn said(error: &Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code: Code| code.to_string())
}

/// What a node stores of all tenants, by its metrics: waits until that is what the living ones use, since the data of the others
/// is removed in the background.
async fn await_stored(client: &Client, expected: Bytes) -> Option<Bytes> {
    let deadline = Instant::now() + REST_WAIT_MAX;
    loop {
        let text = client.admin().metrics().await.ok();
        let stored = text.and_then(|text| {
            let value = |store: &str| {
                let name = format!("insidb_stored_bytes{{store=\"{store}\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<u64>().ok())
            };
            Some(Bytes { disk: value("vs")?, memory: value("cache")? })
        });
        if stored == Some(expected) || Instant::now() > deadline {
            return stored;
        }
        sleep(PACE).await;
    }
}
