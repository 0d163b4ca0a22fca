//! The nodes: real processes, started by `insid dev` as anybody would, and what the system says of them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use insidb_client::{ApiKey, Client, request::LimitsPatch};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde::Deserialize;

/// How long nodes have to become ready, and to end.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long an operator waits for an answer.
const OPERATOR_WAIT_MAX: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(20);

/// One node.
pub(super) struct Node {
    pub(super) public: SocketAddr,
    pub(super) private: SocketAddr,
    pub(super) pid: u32,
}

/// The nodes of a cluster. Killed when dropped.
pub(super) struct Nodes {
    child: Child,
    pub(super) nodes: Vec<Node>,
    pub(super) root_key: String,
}

#[derive(Deserialize)]
struct Addresses {
    public: SocketAddr,
    private: SocketAddr,
}

impl Nodes {
    /// Starts so many nodes with these settings, and returns when all of them are ready.
    pub(super) fn start(insid: &Path, dir: &Path, count: usize, settings: &[(&str, u64)]) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let log = fs::File::create(dir.with_extension("log")).context("cannot make a log")?;
        let mut command = Command::new(insid);
        command.arg("dev").arg("--data-dir").arg(dir).args(["--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]);
        if count > 1 {
            command.args(["--nodes", &count.to_string()]);
        }
        // A line for each request would be the most that a busy node does.
        command.env_remove("RUST_LOG").env("INSIDB_LOG_LEVEL", "warn");
        for (name, value) in settings {
            command.env(format!("INSIDB_{}", name.to_uppercase()), value.to_string());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot start {}", insid.display()))?;
        let mut started = Self { child, nodes: Vec::new(), root_key: String::new() };
        for number in 1..=count {
            let home = if count > 1 { dir.join(format!("node{number}")) } else { dir.to_owned() };
            let Addresses { public, private } = started.await_addresses(&home)?;
            let pid = if count > 1 { find_process(&home.join("insid.toml"))? } else { started.child.id() };
            started.nodes.push(Node { public, private, pid });
        }
        started.root_key = fs::read_to_string(dir.join("root.key")).context("there is no root key")?.trim().to_owned();
        Ok(started)
    }

    /// The node writes them when it is ready.
    fn await_addresses(&mut self, home: &Path) -> anyhow::Result<Addresses> {
        let deadline = Instant::now() + WAIT_MAX;
        let path = home.join("addresses.json");
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("cannot look after the nodes")? {
                bail!("insid has ended at its start with {status}: see its log");
            }
            if let Some(found) = fs::read(&path).ok().and_then(|json| serde_json::from_slice(&json).ok()) {
                return Ok(found);
            }
            std::thread::park_timeout(PACE);
        }
        bail!("{} does not become ready: see its log", home.display())
    }

    pub(super) fn public(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.public).collect()
    }

    /// A client of the first node with the root key.
    pub(super) fn operator(&self) -> anyhow::Result<Client> {
        let Node { public, private, .. } = &self.nodes[0];
        Ok(Client::builder()
            .url(format!("http://{public}"))
            .admin_url(format!("http://{private}"))
            .key(&self.root_key)
            .timeout(OPERATOR_WAIT_MAX)
            .tries_max(1)
            .build()?)
    }

    /// A tenant's key with this rate limit and ample quotas.
    pub(super) async fn tenant(&self, name: &str, rate_per_second: i64) -> anyhow::Result<String> {
        let admin = self.operator()?;
        let made = admin.admin().create_key(name, None).await?;
        let bytes = Some(1 << 40);
        let limits = LimitsPatch {
            bytes_on_disk: bytes,
            bytes_in_memory: bytes,
            rate_per_second_data_limit: Some(rate_per_second),
        };
        admin.admin().set_limits(ApiKey::Uuid(made.key_uuid), limits).await?;
        Ok(made.key)
    }

    /// Ends the nodes in order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has no id")?;
        kill_process(pid, Signal::TERM).context("cannot end the nodes")?;
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("cannot look after the nodes")? {
                ensure!(status.success(), "the nodes ended with {status}");
                return Ok(());
            }
            std::thread::park_timeout(PACE);
        }
        bail!("the nodes do not end")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // Nodes of a cluster end with the process that started them.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The process that runs with this configuration.
fn find_process(config: &Path) -> anyhow::Result<u32> {
    let config = config.to_str().context("the directory's name is no text")?;
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry.context("cannot read /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended meanwhile is not the one.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == config.as_bytes()) {
            return Ok(pid);
        }
    }
    bail!("no process runs with {config}")
}

impl Node {
    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string())
    }

    /// A line of the process's status, in bytes.
    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(self.proc().join("status")).context("a node is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the system tells no memory")?;
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// What the node holds in memory now, in bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS")
    }

    /// The most that it held since [`Node::forget_peak`], in bytes.
    pub(super) fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM")
    }

    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        fs::write(self.proc().join("clear_refs"), "5").context("cannot reset the peak of a node's memory")
    }

    /// How many files and connections it has open.
    pub(super) fn open_files(&self) -> usize {
        fs::read_dir(self.proc().join("fd")).map_or(0, Iterator::count)
    }
}

/// Has this process, and those that it starts, open as many files as the system allows; answers how many.
pub(super) fn raise_file_limit() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("cannot raise the limit of files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
