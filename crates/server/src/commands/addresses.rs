//! Where several nodes on one machine listen.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::Context;
use consensus::env::Env;
use serde::{Deserialize, Serialize};

use super::Failure;

/// Free ports are picked from these. They lie below those that the system gives to outgoing connections, so that a node
/// which is started again finds its ports free.
const FREE_PORTS: std::ops::Range<u16> = 10_000..32_000;

/// One node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeAddresses {
    /// Where tenants' requests are taken.
    pub(crate) public: SocketAddr,
    /// Where operators' requests are taken.
    pub(crate) private: SocketAddr,
    /// Where the other nodes are taken, always on loopback.
    pub(crate) peer: SocketAddr,
}

/// Addresses for `count` nodes: pairs one after another from the first one's (`8080/8081`, `8082/8083`, …), and behind the
/// last pair the peers' ports. A port of 0 stands for free ones.
///
/// # Errors
/// When the ports go past 65535 or meet, or no port is free.
pub(crate) fn one_after_another(
    public: SocketAddr,
    private: SocketAddr,
    count: u16,
    env: &dyn Env,
) -> Result<Vec<NodeAddresses>, Failure> {
    let mut picked = Vec::new();
    let mut place = |first: SocketAddr, step: u16| -> Result<SocketAddr, Failure> {
        let port = match first.port() {
            0 => free_port(first, env, &mut picked)?,
            port => port.checked_add(step).ok_or_else(|| {
                Failure::Usage(format!("there are not enough ports behind {first} for {count} nodes"))
            })?,
        };
        Ok(SocketAddr::new(first.ip(), port))
    };
    let is_free_choice = public.port() == 0 || private.port() == 0;
    let last = public.port().max(private.port());
    let first_peer = SocketAddr::from((Ipv4Addr::LOCALHOST, if is_free_choice { 0 } else { last }));
    let nodes = (0..count).map(|n| -> Result<NodeAddresses, Failure> {
        let (public, private) = (place(public, 2 * n)?, place(private, 2 * n)?);
        Ok(NodeAddresses { public, private, peer: place(first_peer, 2 * count - 1 + n)? })
    });
    let nodes: Vec<NodeAddresses> = nodes.collect::<Result<_, Failure>>()?;
    let distinct: BTreeSet<SocketAddr> = nodes.iter().flat_map(|node| [node.public, node.private, node.peer]).collect();
    if distinct.len() < 3 * nodes.len() {
        return Err(Failure::Usage(format!(
            "{count} nodes one after another from {public} and {private} meet on the same ports: choose ports next to each \
             other, or further apart"
        )));
    }
    Ok(nodes)
}

/// A free port of the address. It stays taken while `picked` lives, so that it is not picked twice.
fn free_port(address: SocketAddr, env: &dyn Env, picked: &mut Vec<TcpListener>) -> anyhow::Result<u16> {
    let count = FREE_PORTS.len();
    let begin = usize::try_from(env.random_u64() % count as u64).unwrap_or_default();
    // From a random place once around.
    let mut ports = FREE_PORTS.cycle().skip(begin).take(count);
    let found = ports.find_map(|port| TcpListener::bind((address.ip(), port)).ok());
    let listener = found.with_context(|| format!("there is no free port on {}", address.ip()))?;
    let port = listener.local_addr().context("cannot read the address of a free port")?.port();
    picked.push(listener);
    Ok(port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::env::System;

    use super::*;

    fn addresses(public: &str, private: &str, count: u16) -> Result<Vec<NodeAddresses>, Failure> {
        one_after_another(public.parse().unwrap(), private.parse().unwrap(), count, &System::new())
    }

    #[test]
    fn pairs_follow_one_another_and_the_peers_follow_the_pairs() {
        let nodes = addresses("127.0.0.1:8080", "127.0.0.1:8081", 3).unwrap();
        let ports: Vec<_> = nodes.iter().map(|it| [it.public.port(), it.private.port(), it.peer.port()]).collect();
        assert_eq!(ports, [[8080, 8081, 8086], [8082, 8083, 8087], [8084, 8085, 8088]]);
    }

    #[test]
    fn free_ports_are_all_different() {
        let nodes = addresses("127.0.0.1:0", "127.0.0.1:0", 7).unwrap();
        assert_eq!(nodes.len(), 7);
        assert!(nodes.iter().all(|node| FREE_PORTS.contains(&node.peer.port())));
    }

    #[test]
    fn ports_that_meet_or_end_are_refused() {
        assert!(matches!(addresses("127.0.0.1:8080", "127.0.0.1:8082", 3), Err(Failure::Usage(_))));
        assert!(matches!(addresses("127.0.0.1:65530", "127.0.0.1:65531", 3), Err(Failure::Usage(_))));
    }
}
