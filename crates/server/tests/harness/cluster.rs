//! A cluster of real processes on loopback.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Answer, Client, PATIENCE, wait_for};

const SECRET: &str = "the-tests-own-secret";

fn root_key(config: &Path) -> String {
    let printed = insid(&["root-key", "--config", config.to_str().unwrap()]).output().unwrap();
    String::from_utf8(printed.stdout).unwrap().trim().to_owned()
}

fn insid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_insid"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG").env("INSIDB_INSTANCE_SECRET", SECRET);
    command
}

/// A port that is free now, and that no outgoing connection takes meanwhile: it lies below those that the system gives
/// away. Each test process begins at a place of its own, so that clusters side by side do not meet.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    let begin = std::process::id().wrapping_mul(97);
    loop {
        let port = FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One node, running or not.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
    pub(crate) peer: SocketAddr,
    child: Option<Child>,
}

/// Nodes 0 to n-1. Everything that still runs is killed when it is dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root_key: String,
    settings: String,
    has_founded: bool,
    /// A network namespace for each node; none on loopback.
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
}

/// The address of a node that has a network namespace of its own.
pub(crate) fn address_in_namespace(number: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, u8::try_from(number + 1).unwrap()])
}

impl Cluster {
    /// Starts `count` nodes, and returns when all of them vote in both groups and serve.
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, "")
    }

    /// As [`Cluster::start`], with further settings for all nodes.
    pub(crate) fn start_with(count: usize, settings: &str) -> Self {
        Self::start_at(count, settings, Vec::new())
    }

    /// A node in each of these network namespaces, at [`address_in_namespace`].
    pub(crate) fn start_in(namespaces: Vec<String>, settings: &str) -> Self {
        Self::start_at(namespaces.len(), settings, namespaces)
    }

    fn start_at(count: usize, settings: &str, namespaces: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings.to_owned();
        let (nodes, root_key) = (Vec::new(), String::new());
        let mut cluster = Self { nodes, root_key, settings, has_founded: false, namespaces, dir };
        for _ in 0..count {
            cluster.reserve();
        }
        for number in 0..count {
            cluster.configure(number);
        }
        cluster.root_key = self::root_key(&cluster.config(0));
        for number in 0..count {
            cluster.spawn(number);
            // The first one founds.
            if number == 0 {
                cluster.await_ready(0);
                cluster.has_founded = true;
            }
        }
        cluster.await_whole();
        cluster
    }

    /// A node that does not run yet, with addresses of its own.
    pub(crate) fn reserve(&mut self) -> usize {
        let number = self.nodes.len();
        let addresses: Vec<SocketAddr> = if self.namespaces.is_empty() {
            (0..3).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect()
        } else {
            (8080..8083).map(|port| SocketAddr::new(address_in_namespace(number), port)).collect()
        };
        let address = |n: usize| addresses[n];
        let dir = self.dir.path().join(format!("node{number}"));
        let node = Node { dir, public: address(0), private: address(1), peer: address(2), child: None };
        self.nodes.push(node);
        number
    }

    pub(crate) fn config(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node{number}.toml"))
    }

    /// Writes a node's configuration; node 0 has nobody to join until it has founded.
    pub(crate) fn configure(&self, number: usize) {
        let join: Vec<String> = self.nodes.iter().map(|node| format!("\"{}\"", node.peer)).collect();
        let join = if number == 0 && !self.has_founded { String::new() } else { join.join(", ") };
        let Node { dir, public, private, peer, .. } = &self.nodes[number];
        let toml = format!(
            "data_dir = \"{}\"\npublic_address = \"{public}\"\nprivate_address = \"{private}\"\n\
             peer_address = \"{peer}\"\njoin = [{join}]\n{}\n",
            dir.display(),
            self.settings
        );
        std::fs::write(self.config(number), toml).unwrap();
    }

    pub(crate) fn spawn(&mut self, number: usize) {
        self.spawn_with_secret(number, SECRET);
    }

    /// As [`Cluster::spawn`], for a node that may have the secret of another cluster.
    pub(crate) fn spawn_with_secret(&mut self, number: usize, secret: &str) {
        assert!(self.nodes[number].child.is_none());
        drop(std::fs::remove_file(self.nodes[number].dir.join("addresses.json")));
        let log = File::options().create(true).append(true).open(self.log(number)).unwrap();
        let config = self.config(number);
        let run = ["run", "--config", config.to_str().unwrap(), "--log-level", "info"];
        let mut command = match self.namespaces.get(number) {
            None => insid(&run),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_insid")]).args(run);
                command.stdin(Stdio::null()).env_remove("RUST_LOG");
                command
            }
        };
        command.env("INSIDB_INSTANCE_SECRET", secret);
        self.nodes[number].child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub(crate) fn log(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node{number}.log"))
    }

    /// What a node has logged, over all its processes.
    pub(crate) fn log_text(&self, number: usize) -> String {
        std::fs::read_to_string(self.log(number)).unwrap()
    }

    /// Starts a node and waits until it serves.
    pub(crate) fn restart(&mut self, number: usize) {
        self.configure(number);
        self.spawn(number);
        self.await_ready(number);
    }

    pub(crate) fn await_ready(&mut self, number: usize) {
        wait_for(&format!("node {number} to be ready"), || {
            if let Some(status) = self.nodes[number].child.as_mut().unwrap().try_wait().unwrap() {
                panic!("node {number} ended with {status}");
            }
            self.is_ready(number).then_some(())
        });
    }

    pub(crate) fn is_ready(&self, number: usize) -> bool {
        let Ok(mut client) = Client::try_connect(self.nodes[number].private) else { return false };
        client.try_request("GET", "/readyz", "").is_ok_and(|answer| answer.status == 200)
    }

    /// How long the node's process has computed since it began.
    pub(crate) fn cpu_time(&self, number: usize) -> Duration {
        let pid = self.nodes[number].child.as_ref().unwrap().id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // User and system time, counted behind the name, which may hold blanks; in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn is_running(&self, number: usize) -> bool {
        self.nodes[number].child.is_some()
    }

    pub(crate) fn kill(&mut self, number: usize) {
        let mut child = self.nodes[number].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// An orderly stop; its exit code.
    pub(crate) fn stop(&mut self, number: usize) -> Option<i32> {
        self.signal(number, "TERM");
        let mut child = self.nodes[number].child.take().unwrap();
        wait_for("the node to stop", || child.try_wait().unwrap()).code()
    }

    /// Waits until the node's process has ended by itself; its exit code.
    pub(crate) fn await_end(&mut self, number: usize) -> Option<i32> {
        let mut child = self.nodes[number].child.take().unwrap();
        wait_for("the node to end by itself", || child.try_wait().unwrap()).code()
    }

    pub(crate) fn signal(&self, number: usize, name: &str) {
        let pid = self.nodes[number].child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Starts a node that must refuse; what it says.
    pub(crate) fn refusal(&self, number: usize) -> String {
        let output = insid(&["run", "--config", self.config(number).to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }

    /// What a machine with a new disk has.
    pub(crate) fn wipe(&self, number: usize) {
        assert!(self.nodes[number].child.is_none());
        std::fs::remove_dir_all(&self.nodes[number].dir).unwrap();
    }

    /// Gives a node that does not run another peer address, which its next start takes.
    pub(crate) fn move_peer(&mut self, number: usize) {
        self.nodes[number].peer.set_port(free_port());
    }

    /// Copies the data directory of a node that does not run.
    pub(crate) fn copy_data(&self, number: usize, to: &Path) {
        assert!(self.nodes[number].child.is_none());
        let copied = Command::new("cp").arg("-a").arg(&self.nodes[number].dir).arg(to).status().unwrap();
        assert!(copied.success());
    }

    pub(crate) fn client(&self, number: usize, key: &str) -> Client {
        Client::connect(self.nodes[number].public).key(key)
    }

    /// The same, if the node can be reached.
    pub(crate) fn connect(&self, number: usize, key: &str) -> Option<Client> {
        Client::try_connect(self.nodes[number].public).ok().map(|client| client.key(key))
    }

    /// A write through a node, tried again for as long as it is refused or its outcome is unknown. Safe: it always writes the same.
    pub(crate) fn set_until_done(&self, number: usize, key: &str, store: &str, name: &str, value: &str) {
        let body = json!({"key": name, "value": value}).to_string();
        wait_for("a write", || {
            let answer = self.connect(number, key)?.try_request("POST", store, &body).ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// All nodes but one.
    pub(crate) fn others(&self, than: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| *number != than).collect()
    }

    pub(crate) fn root(&self, number: usize) -> Client {
        let key = self.root_key.clone();
        self.client(number, &key)
    }

    pub(crate) fn admin(&self, number: usize, method: &str, path: &str, body: &str) -> Answer {
        Client::connect(self.nodes[number].private).key(&self.root_key).request(method, path, body)
    }

    /// A tenant's key with ample limits, and its public id.
    pub(crate) fn create_key(&self, number: usize, name: &str) -> (String, String) {
        let made = self.admin(number, "POST", "/admin/api/create", &json!({ "key_name": name }).to_string());
        assert_eq!(made.status, 200, "{}", made.text());
        let (key, uuid) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["key_uuid"].clone());
        let limits = json!({"key_uuid": uuid, "limits": {"rate_per_second_data_limit": 10_000_000}});
        let set = self.admin(number, "POST", "/admin/limits/set", &limits.to_string());
        assert_eq!(set.status, 200, "{}", set.text());
        (key, uuid.as_str().unwrap().to_owned())
    }

    /// `/admin/cluster/status` of a node.
    pub(crate) fn status(&self, number: usize) -> Value {
        let answer = self.admin(number, "GET", "/admin/cluster/status", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The id of a node, as it says itself.
    pub(crate) fn id(&self, number: usize) -> String {
        self.root(number).get("/ping").json()["node"].as_str().unwrap().to_owned()
    }

    /// Which running node leads the group of the Value Store.
    pub(crate) fn leader(&self) -> usize {
        wait_for("a leader", || {
            let running: Vec<usize> = (0..self.nodes.len()).filter(|number| self.is_running(*number)).collect();
            let ids: BTreeMap<String, usize> = running
                .iter()
                .filter_map(|number| {
                    let mut client = Client::try_connect(self.nodes[*number].public).ok()?.key(&self.root_key);
                    let answer = client.try_request("GET", "/ping", "").ok().filter(|answer| answer.status == 200)?;
                    Some((answer.json()["node"].as_str()?.to_owned(), *number))
                })
                .collect();
            running.iter().find_map(|number| {
                let mut client = Client::try_connect(self.nodes[*number].public).ok()?.key(&self.root_key);
                let answer = client.try_request("GET", "/ping", "").ok().filter(|answer| answer.status == 200)?;
                ids.get(answer.json()["leader"].as_str()?).copied()
            })
        })
    }

    /// Waits until every node that runs is ready and votes in both groups.
    pub(crate) fn await_voters(&mut self) {
        self.await_members(false);
    }

    /// The same, and until all have applied the same.
    pub(crate) fn await_whole(&mut self) {
        self.await_members(true);
    }

    fn await_members(&mut self, equal: bool) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|number| self.is_running(*number)).collect();
        for number in &running {
            self.await_ready(*number);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(running[0]);
            let nodes = status["nodes"].as_array().unwrap();
            let is_whole = |group: &str| {
                let members: Vec<&Value> = nodes.iter().map(|node| &node[group]).collect();
                let votes = |member: &&Value| matches!(member["role"].as_str(), Some("leader" | "voter"));
                let applied = members[0]["applied_index"].as_u64();
                members.iter().all(votes)
                    && applied.is_some()
                    && members.iter().all(|member| !equal || member["applied_index"].as_u64() == applied)
            };
            if nodes.len() == running.len() && is_whole("values") && is_whole("cache") {
                return;
            }
            assert!(Instant::now() < deadline, "the cluster does not become whole: {status:#}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
        if std::thread::panicking() {
            for number in 0..self.nodes.len() {
                let log = std::fs::read_to_string(self.log(number)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"request\"")).collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                #[allow(clippy::print_stderr, reason = "for whoever reads a failed test")]
                {
                    eprintln!("--- node {number}\n{}", tail.join("\n"));
                }
            }
        }
    }
}
