//! How the supervisor knows that the cluster is whole: it asks a node, as `insic cluster status` does.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use api::response::{Cluster, ClusterMember, Role};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one question may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(6);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Whether the node at this private address answers that `count` nodes vote in both groups: only then does the loss of
/// one cost nothing.
pub(super) async fn all_vote(private: SocketAddr, root_key: &str, count: usize) -> bool {
    match timeout(ANSWER_WAIT_MAX, status(private, root_key)).await {
        Ok(Ok(cluster)) => vote(&cluster, count),
        Ok(Err(_)) | Err(_) => false,
    }
}

fn vote(cluster: &Cluster, count: usize) -> bool {
    let votes = |member: &ClusterMember| match member.role {
        Role::Leader | Role::Voter => true,
        Role::Learner => false,
    };
    let voters = cluster.nodes.iter().filter(|node| votes(&node.values) && node.cache.as_ref().is_some_and(votes));
    voters.filter(|node| node.reachable).count() == count
}

async fn status(private: SocketAddr, root_key: &str) -> anyhow::Result<Cluster> {
    let mut stream = TcpStream::connect(private).await?;
    let head = format!(
        "GET {}{} HTTP/1.1\r\nHost: {private}\r\nAuthorization: Bearer {root_key}\r\nConnection: close\r\n\r\n",
        api::path::BASE,
        api::path::CLUSTER_STATUS
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "refused");
    let head =
        answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without an end of its head")?;
    Ok(serde_json::from_slice(&answer[head + 4..])?)
}
