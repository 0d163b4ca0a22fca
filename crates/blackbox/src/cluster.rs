//! The nodes: real processes, in their own namespaces where there are any.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{clock::FakeClock, disk::SmallDisk, network::Network};

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// Checkpoints and segments are as small as can be, so that logs are purged and snapshots made all the time. Requests are
/// recorded by those who make them, and not logged.
const SETTINGS: &str = "checkpoint_bytes = 65536\nlog_segment_bytes = 1048576\nlog_tail_bytes = 262144\n\
                        max_value_size = 262144\nlog_format = \"json\"\nlog_level = \"info,insid::http::layers=warn\"\n";
const SECRET: &str = "the-black-box-s-own-secret";
/// How long a process that was told to end may take: longer than it has for what is in flight.
const END_WAIT_MAX: Duration = Duration::from_secs(30);

/// Where a node is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// What the machine lets a run have.
#[derive(Default)]
pub(crate) struct Means {
    pub(crate) network: Option<Network>,
    /// Which node has it.
    pub(crate) disk: Option<(usize, SmallDisk)>,
    pub(crate) clock: Option<FakeClock>,
}

/// The nodes. Those that run are killed when it is dropped, before what they stand on is taken away.
pub(crate) struct Cluster {
    insid: PathBuf,
    dir: PathBuf,
    pub(crate) addresses: Vec<Addresses>,
    children: Vec<Option<Child>>,
    has_founded: bool,
    pub(crate) means: Means,
}

/// Where a node keeps its data.
pub(crate) fn data_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node{number}"))
}

fn free_port(from: &mut u16) -> anyhow::Result<u16> {
    // Below those that the system gives to outgoing connections.
    while *from < 30_000 {
        *from += 1;
        if TcpListener::bind(("127.0.0.1", *from)).is_ok() {
            return Ok(*from);
        }
    }
    bail!("no port is free")
}

impl Cluster {
    pub(crate) fn new(insid: &Path, dir: &Path, means: Means) -> anyhow::Result<Self> {
        let mut port = 10_000 + u16::try_from(std::process::id() % 19_000).unwrap_or(0);
        let mut addresses = Vec::new();
        for number in 0..NODES {
            addresses.push(if means.network.is_some() {
                let at = |port| SocketAddr::new(Network::address(number), port);
                Addresses { public: at(8080), private: at(8081), peer: at(8082) }
            } else {
                let mut at = || free_port(&mut port).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
                Addresses { public: at()?, private: at()?, peer: at()? }
            });
        }
        let (insid, dir) = (insid.to_owned(), dir.to_owned());
        let children = (0..NODES).map(|_| None).collect();
        Ok(Self { insid, dir, addresses, children, has_founded: false, means })
    }

    fn config(&self, number: usize) -> PathBuf {
        self.dir.join(format!("node{number}.toml"))
    }

    /// Writes a node's configuration; the first has nobody to join until it has founded.
    fn configure(&self, number: usize) -> anyhow::Result<()> {
        let join: Vec<String> = self.addresses.iter().map(|node| format!("\"{}\"", node.peer)).collect();
        let join = if number == 0 && !self.has_founded { String::new() } else { join.join(", ") };
        let Addresses { public, private, peer } = self.addresses[number];
        // A mount point is nobody's to move or remove: the data lies below it.
        let data = data_dir(&self.dir, number).join("data");
        let toml = format!(
            "data_dir = \"{}\"\npublic_address = \"{public}\"\nprivate_address = \"{private}\"\n\
             peer_address = \"{peer}\"\njoin = [{join}]\n{SETTINGS}",
            data.display()
        );
        std::fs::write(self.config(number), toml).context("cannot write a configuration")
    }

    /// The root key, as the server says it.
    pub(crate) fn root_key(&self) -> anyhow::Result<String> {
        self.configure(0)?;
        let output = Command::new(&self.insid)
            .args(["root-key", "--config"])
            .arg(self.config(0))
            .env("INSIDB_INSTANCE_SECRET", SECRET)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.insid.display()))?;
        ensure!(output.status.success(), "insid root-key: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout).context("the root key is no text")?.trim().to_owned())
    }

    /// The first node has founded: from now on it joins as all others.
    pub(crate) fn founded(&mut self) {
        self.has_founded = true;
    }

    /// Starts a node's process. It ends with this program, whose pipe its standard input is.
    pub(crate) fn spawn(&mut self, number: usize) -> anyhow::Result<()> {
        ensure!(self.children[number].is_none(), "node {number} runs already");
        self.configure(number)?;
        std::fs::create_dir_all(data_dir(&self.dir, number)).context("cannot make a data directory")?;
        let mut command = match &self.means.network {
            None => Command::new(&self.insid),
            Some(network) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &network.namespace(number)]).arg(&self.insid);
                command
            }
        };
        if let Some(clock) = &self.means.clock {
            command.envs(clock.environment(number));
        }
        let log = self.dir.join(format!("node{number}.log"));
        let log = File::options().create(true).append(true).open(log).context("cannot open a log")?;
        command.args(["run", "--stop-with-stdin", "--config"]).arg(self.config(number));
        command.env_remove("RUST_LOG").env("INSIDB_INSTANCE_SECRET", SECRET);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn();
        self.children[number] = Some(child.with_context(|| format!("cannot start node {number}"))?);
        Ok(())
    }

    /// Starts every node that does not run.
    pub(crate) fn spawn_missing(&mut self) -> anyhow::Result<()> {
        (0..NODES)
            .filter(|number| self.children[*number].is_none())
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|it| self.spawn(it))
    }

    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(mut child) = self.children[number].take() else { return Ok(()) };
        child.kill().with_context(|| format!("cannot kill node {number}"))?;
        child.wait().map(drop).with_context(|| format!("cannot wait for node {number}"))
    }

    pub(crate) fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.children[number] else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process has no id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send a signal to node {number}"))
    }

    /// An orderly stop; how it ended. None: it did not, and was killed.
    pub(crate) fn stop(&mut self, number: usize) -> anyhow::Result<Option<ExitStatus>> {
        self.signal(number, Signal::TERM)?;
        let Some(child) = &mut self.children[number] else { return Ok(None) };
        let deadline = Instant::now() + END_WAIT_MAX;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().context("cannot wait for a node")? {
                self.children[number] = None;
                return Ok(Some(status));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.kill(number)?;
        Ok(None)
    }

    /// A node that has ended by itself, and how. It counts as not running from then on.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<(usize, ExitStatus)>> {
        for (number, slot) in self.children.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            if let Some(status) = child.try_wait().context("cannot look after a node")? {
                *slot = None;
                return Ok(Some((number, status)));
            }
        }
        Ok(None)
    }

    /// What a machine with a new disk has.
    pub(crate) fn wipe(&mut self, number: usize) -> anyhow::Result<()> {
        ensure!(self.children[number].is_none(), "node {number} runs");
        std::fs::remove_dir_all(data_dir(&self.dir, number).join("data")).context("cannot empty a disk")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..NODES).for_each(|number| drop(self.kill(number)));
    }
}
