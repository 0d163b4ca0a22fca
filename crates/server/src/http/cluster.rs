//! The cluster itself, for operators.
//!
//! Status is put together from what this node knows of the members and what each of them says of itself, within a second.
//! Changes go to the leader, wherever it is.

use std::{collections::BTreeMap, time::Duration};

use api::{request, response};
use axum::response::Response;
use consensus::{Member, Members, types::MemberId};
use futures_util::future::join_all;
use state::ids::NodeId;
use tokio::time::Instant;

use crate::{
    http::{KnownCall, error::Error, keys::json},
    peer::message::{Ask, Change, GroupStatus, Status, Told},
    service::{self, Service},
};

/// How long a node may take to say how it is.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a change may take: longer than a lease, which a removal waits out.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(12);

/// `GET /admin/cluster/status`.
pub(crate) async fn status(call: KnownCall<'_>) -> Result<Response, Error> {
    let service = &call.call.app.service;
    let desk = service.desk();
    let own = desk.status();
    let members = service.values().members();
    let asked = join_all(members.members.iter().map(async |member| {
        let node = member.id.node;
        if node == own.node {
            return (node, Some(own.clone()));
        }
        let told = desk.peers().ask(&member.peer.address, &Ask::Status, STATUS_WAIT_MAX).await;
        match told {
            // Another one at the address has taken the place of a node that lost its disk.
            Ok(Told::Status(status)) if status.node == node => (node, Some(*status)),
            Ok(_) | Err(_) => (node, None),
        }
    }))
    .await;
    let told: BTreeMap<NodeId, Option<Status>> = asked.into_iter().collect();
    let cache = service.cache();
    let cache_members = cache.as_ref().map(|cache| cache.group.members());
    let cache_leader = cache.as_ref().and_then(|cache| cache.group.status().leader);
    let says = |leader: Option<MemberId>| told.get(&leader?.node)?.as_ref();
    let values = Lead { leader: own.values.leader, says: says(own.values.leader).map(|status| &status.values) };
    let cached_by = Lead { leader: cache_leader, says: says(cache_leader).and_then(|status| status.cache.as_ref()) };
    let node = |member: &Member| {
        let status = told.get(&member.id.node).and_then(Option::as_ref);
        response::ClusterNode {
            node: member.id.node.to_string(),
            address: member.peer.address.clone(),
            reachable: status.is_some(),
            version: status.map(|status| status.version.clone()),
            values: describe(member, &values, 0, status.map(|status| &status.values)),
            cache: {
                let generation = cache.as_ref().map_or(0, |cache| cache.generation);
                let says = status.and_then(|status| status.cache.as_ref());
                cache_member(&cache_members, member.id.node, says.map(|says| says.member))
                    .map(|cached| describe(cached, &cached_by, generation, says))
            },
        }
    };
    Ok(json(&response::Cluster {
        node: own.node.to_string(),
        leader: own.values.leader.map(|leader| leader.node.to_string()),
        cache_leader: cache_leader.map(|leader| leader.node.to_string()),
        cache_generation: cache.as_ref().map_or(0, |cache| cache.generation),
        nodes: members.members.iter().map(node).collect(),
    }))
}

/// The node's member of the cache group: the one that its process says it is, which the group may not have yet; the vote of a
/// former one is nobody's. Of a node that says nothing, the voter.
fn cache_member(members: &Option<Members>, node: NodeId, says: Option<MemberId>) -> Option<&Member> {
    let mut of_node = members.as_ref()?.members.iter().filter(|member| member.id.node == node);
    match says {
        Some(id) => of_node.find(|member| member.id == id),
        None => of_node.max_by_key(|member| (member.is_voter, member.id.incarnation)),
    }
}

/// A group's leader, and what it says: only it knows how far the others have come.
struct Lead<'a> {
    leader: Option<MemberId>,
    says: Option<&'a GroupStatus>,
}

fn describe(member: &Member, lead: &Lead<'_>, generation: u64, says: Option<&GroupStatus>) -> response::ClusterMember {
    // One that says nothing leads nobody any more, whatever is remembered of it.
    let role = match (lead.leader == Some(member.id) && says.is_some(), member.is_voter) {
        (true, _) => response::Role::Leader,
        (false, true) => response::Role::Voter,
        (false, false) => response::Role::Learner,
    };
    let follower = lead.says.and_then(|says| {
        let of_member = says.followers.iter().find(|follower| follower.member == member.id)?;
        Some((says.last_index, of_member))
    });
    let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    response::ClusterMember {
        role,
        incarnation: member.id.incarnation,
        generation,
        term: says.map(|says| says.term),
        last_index: says.map(|says| says.last_index),
        applied_index: says.map(|says| says.applied_index),
        state_hash: says.and_then(|says| says.state_hash).map(|hash| hash.to_string()),
        lag: follower.and_then(|(last_index, follower)| Some(last_index.saturating_sub(follower.matched_index?))),
        last_contact_ms: follower
            .and_then(|(_, follower)| follower.last_contact)
            .filter(|_| role != response::Role::Leader)
            .map(millis),
    }
}

/// `POST /admin/cluster/add`.
pub(crate) async fn add(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::ClusterAdd { address } = call.call.json().await?;
    if !is_address(&address) {
        return Err(Error::invalid("Field `address` is no peer address: HOST:PORT, as the other nodes reach it"));
    }
    change(&call.call.app.service, Change::Add { address }).await
}

/// Whether it is a host and a port, as far as can be said without looking the name up.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (1..=255).contains(&host.len()) && host.bytes().all(is_name) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `POST /admin/cluster/remove`.
pub(crate) async fn remove(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::ClusterRemove { node } = call.call.json().await?;
    let node = parse(&node)?;
    change(&call.call.app.service, Change::Remove { node }).await
}

/// `POST /admin/cluster/transfer`.
pub(crate) async fn transfer(mut call: KnownCall<'_>) -> Result<Response, Error> {
    let request::ClusterTransfer { node } = call.call.json_or_default().await?;
    let node = node.as_deref().map(parse).transpose()?;
    change(&call.call.app.service, Change::Transfer { node }).await
}

fn parse(node: &str) -> Result<NodeId, Error> {
    let id = u64::from_str_radix(node, 16).map_err(|_| Error::invalid("Field `node` is no node id: 16 hex digits"))?;
    Ok(NodeId(id))
}

/// Has the leader make the change. Where the leader hands over because of it, the next one is asked.
async fn change(service: &Service, change: Change) -> Result<Response, Error> {
    let deadline = Instant::now() + CHANGE_WAIT_MAX;
    while Instant::now() < deadline {
        let wait = deadline.saturating_duration_since(Instant::now());
        match service.desk().ask_leader(Ask::Change(change.clone()), wait).await {
            Told::Done => return Ok(json(&response::Status { status: "ok".to_owned() })),
            Told::Refused(reason) => return Err(service::Error::ClusterChangeRefused(reason).into()),
            Told::NotLeader(_) => service.values().await_news(deadline).await,
            Told::Unknown
            | Told::Identity(_)
            | Told::Status(_)
            | Told::Renewed(_)
            | Told::Applied { .. }
            | Told::InForce { .. }
            | Told::Hash(_)
            | Told::Shares(_)
            | Told::Condemned(_) => {
                return Err(service::Error::OutcomeUnknown.into());
            }
        }
    }
    Err(service::Error::NoLeader.into())
}
