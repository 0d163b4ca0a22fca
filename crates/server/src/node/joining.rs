//! How a node comes into its cluster, and how it finds out that it must not found one.

use std::{convert::Infallible, sync::Arc};

use consensus::Group;
use storage::disk::DiskEngine;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    desk::Desk,
    end::{End, Ending},
    timing,
};
use crate::peer::{
    Peers,
    message::{Ask, Condemned, Newcomer, Status, Told},
};

/// What came of asking: the node is taken in, or not this time, with the reason; or it must end.
type Asked = Result<Result<(), String>, Condemned>;

/// Asks to be taken in until the node is a member at its present address; from then on whenever it has no leader for long.
///
/// # Errors
/// Why the node must end, when it hears that it must.
pub(super) async fn join(
    desk: Arc<Desk>,
    values: Group<DiskEngine>,
    peers: Vec<String>,
) -> Result<Infallible, Condemned> {
    let own = Newcomer { node: values.member().node, address: desk.address().to_owned() };
    let mut patience = Instant::now();
    while !values
        .members()
        .members
        .iter()
        .any(|member| member.id == values.member() && member.peer.address == own.address)
    {
        let asked = ask_all(&desk, &peers, &own).await?;
        if Instant::now() >= patience {
            patience = Instant::now() + timing::PATIENCE;
            tracing::info!(reason = asked.err(), "the node asks to be taken into the cluster");
        }
        sleep(timing::JOIN_PAUSE).await;
    }
    // A node that was removed, or whose address somebody else has taken, hears no more of its cluster: only by asking it
    // learns that, or is heard again.
    let mut patience = Instant::now() + timing::PATIENCE;
    loop {
        sleep(timing::REJOIN_PAUSE).await;
        if values.status().leader.is_some() {
            patience = Instant::now() + timing::PATIENCE;
            continue;
        }
        let asked = ask_all(&desk, &peers, &own).await?;
        if Instant::now() >= patience {
            patience = Instant::now() + timing::PATIENCE;
            tracing::warn!(reason = asked.err(), "no leader is known to this node");
        }
    }
}

/// Asks one peer after another to take the node in; why the last one did not, when none does.
async fn ask_all(desk: &Desk, peers: &[String], own: &Newcomer) -> Asked {
    // The node that leads asks itself: it may be alone, with an address that is new.
    if desk.values.status().is_leader {
        match desk.ask_leader(Ask::Join(own.clone()), timing::STEP_WAIT_MAX).await {
            Told::Done => return Ok(Ok(())),
            Told::Condemned(why) => return Err(why),
            Told::Refused(reason) => return Ok(Err(reason)),
            _ => {} // it leads no more: the others may know who does
        }
    }
    let mut said = "no peer answers".to_owned();
    for address in peers.iter().filter(|address| **address != own.address) {
        match ask_to_join(desk, address, own).await {
            Ok(Err(reason)) => said = reason,
            settled => return settled,
        }
    }
    Ok(Err(said))
}

async fn ask_to_join(desk: &Desk, address: &str, own: &Newcomer) -> Asked {
    let ask = Ask::Join(own.clone());
    let not_now = |reason| Ok(Err(reason));
    let mut at = address.to_owned();
    // The first one may name the leader.
    for _ in 0..2 {
        match desk.peers().ask(&at, &ask, timing::STEP_WAIT_MAX).await {
            Ok(Told::Done) => return Ok(Ok(())),
            Ok(Told::NotLeader(Some(leader))) => at = leader.address,
            Ok(Told::Condemned(why)) => return Err(why),
            Ok(Told::NotLeader(None)) => return not_now(format!("{at} knows no leader")),
            Ok(Told::Refused(reason)) => return not_now(format!("{at} refuses: {reason}")),
            Ok(_) => return not_now(format!("{at} does not know whether it is done")),
            Err(error) => return not_now(format!("{at}: {error}")),
        }
    }
    not_now("the leader has changed meanwhile".to_owned())
}

/// The cluster that answers at one of these addresses; asked again and again until one does.
pub(crate) async fn find_cluster(peers: &Peers, join: &[String]) -> Uuid {
    let mut patience = Instant::now();
    loop {
        for address in join {
            if let Ok(Told::Identity(identity)) = peers.ask(address, &Ask::Identify, timing::STEP_WAIT_MAX).await
                && let Some(cluster_id) = identity.cluster_id
            {
                return cluster_id;
            }
        }
        if Instant::now() >= patience {
            patience = Instant::now() + timing::PATIENCE;
            tracing::info!(
                ?join,
                "no node of a cluster answers yet; this one waits, since with `join` set it founds none"
            );
        }
        sleep(timing::JOIN_PAUSE).await;
    }
}

/// The address of a peer that shows that the cluster was founded before this node does it: one of the same cluster that has
/// entries in its log. Nodes that wait to be taken in have none. A permission to found that was copied before it was used
/// is one too many.
pub(super) async fn founded_before(desk: &Desk, join: &[String]) -> Option<String> {
    others(desk, join, |status| status.values.last_index > 0).await
}

/// The same for as long as the node is alone in what it has founded: who was down when it looked may be back since. A peer
/// that follows, or is, another leader of this cluster says it; those that were removed from here do not count.
pub(super) async fn watch_for_first_founding(desk: Arc<Desk>, join: Vec<String>, ending: Ending) {
    while desk.values.members().members.len() < 2 {
        let removed = desk.values.local().registry().unwrap_or_default().removed;
        let found = others(&desk, &join, |status| {
            let follows_another = status.values.leader.is_some_and(|leader| leader.node != desk.node);
            status.node != desk.node && follows_another && !removed.contains(&status.node)
        });
        if let Some(address) = found.await {
            desk.holder.give_up();
            ending.send_replace(Some(End::Fault(second_founding(&address))));
            return;
        }
        sleep(timing::FOUNDING_LOOK).await;
    }
}

/// The first of the peers whose status shows it.
async fn others(desk: &Desk, join: &[String], shows: impl Fn(&Status) -> bool) -> Option<String> {
    for address in join.iter().filter(|address| *address != desk.address()) {
        if let Ok(Told::Status(status)) = desk.peers().ask(address, &Ask::Status, timing::FOUNDING_WAIT_MAX).await
            && shows(&status)
        {
            return Some(address.clone());
        }
    }
    None
}

pub(super) fn second_founding(address: &str) -> String {
    format!(
        "the node at {address} belongs to this cluster, which was founded before: this data directory is a copy of one that \
         was used. Remove it, and the node joins as a new member"
    )
}
