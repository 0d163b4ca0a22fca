//! A network of namespaces: one for each node, and a hub with a bridge between all of them, where the clients live.
//!
//! What one node sends to another is swallowed by a route of the sender's, so that a cut has a direction; clients reach all
//! nodes all the time. A thread enters the hub by itself, so that the program need not be started again inside of it.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsFd,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// The namespaces, removed when dropped.
pub(crate) struct Network {
    hub: String,
    nodes: usize,
    /// Which ways are cut.
    cuts: Vec<(usize, usize)>,
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("there is no program `ip`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}`: {}", arguments.join(" "), said.trim());
    Ok(())
}

impl Network {
    /// Makes the namespaces, or says why that cannot be.
    pub(crate) fn make(nodes: usize) -> anyhow::Result<Self> {
        let network = Self { hub: format!("insidb-bb-{}", std::process::id()), nodes, cuts: Vec::new() };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> anyhow::Result<()> {
        let hub = &self.hub;
        ip(&["netns", "add", hub])?;
        ip(&["-n", hub, "link", "set", "lo", "up"])?;
        ip(&["-n", hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", hub, "addr", "add", "10.77.0.254/24", "dev", "bridge"])?;
        ip(&["-n", hub, "link", "set", "bridge", "up"])?;
        for number in 0..self.nodes {
            let (node, port) = (self.namespace(number), format!("port{number}"));
            ip(&["netns", "add", &node])?;
            ip(&["-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &node])?;
            ip(&["-n", hub, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &node, "addr", "add", &format!("{}/24", Self::address(number)), "dev", "eth0"])?;
            ip(&["-n", &node, "link", "set", "lo", "up"])?;
            ip(&["-n", &node, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    /// The namespace of a node, as `ip netns exec` takes it.
    pub(crate) fn namespace(&self, number: usize) -> String {
        format!("{}-{number}", self.hub)
    }

    /// The address of a node.
    pub(crate) fn address(number: usize) -> IpAddr {
        IpAddr::from([10, 77, 0, u8::try_from(number + 1).unwrap_or(u8::MAX)])
    }

    /// A door to the hub.
    pub(crate) fn door(&self) -> anyhow::Result<Door> {
        let path = format!("/run/netns/{}", self.hub);
        File::open(&path).map(Door).with_context(|| format!("cannot open {path}"))
    }

    /// Swallows what `from` sends to `to`.
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> anyhow::Result<()> {
        if !self.cuts.contains(&(from, to)) {
            self.route("add", from, to)?;
            self.cuts.push((from, to));
        }
        Ok(())
    }

    /// Mends all cuts.
    pub(crate) fn mend(&mut self) -> anyhow::Result<()> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.route("del", from, to)?;
        }
        Ok(())
    }

    fn route(&self, change: &str, from: usize, to: usize) -> anyhow::Result<()> {
        ip(&["-n", &self.namespace(from), "route", change, "blackhole", &Self::address(to).to_string()])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..self.nodes {
            drop(ip(&["netns", "del", &self.namespace(number)]));
        }
        drop(ip(&["netns", "del", &self.hub]));
    }
}

/// Leads the calling thread into the hub.
pub(crate) struct Door(File);

impl Door {
    #[cfg(target_os = "linux")]
    pub(crate) fn enter(&self) -> io::Result<()> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// There are no namespaces, and so no door.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn enter(&self) -> io::Result<()> {
        drop(self.0.as_fd());
        Err(io::ErrorKind::Unsupported.into())
    }
}
