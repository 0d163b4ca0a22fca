//! `insid dev --nodes` and `insid init --nodes`: clusters of real processes, made by one command.

#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness::{Client, wait_for};
use serde_json::{Value, json};

fn insid() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_insid"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG").env("INSIDB_LOG_LEVEL", "warn");
    command
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn exists(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

/// One line of what is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    public: SocketAddr,
    private: SocketAddr,
    process: String,
}

struct Dev {
    parent: Process,
    nodes: Vec<Node>,
    key: String,
}

impl Dev {
    /// Starts three nodes on ports that are picked, and returns when they are announced.
    fn start(dir: &Path) -> Self {
        let said_path = dir.with_extension("out");
        let said_file = File::create(&said_path).unwrap();
        let parent = insid()
            .args(["dev", "--nodes", "3", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .stdout(said_file)
            .stderr(File::options().create(true).append(true).open(dir.with_extension("log")).unwrap())
            .spawn();
        let mut parent = Process(parent.unwrap());
        let said = wait_for("the announcement", || {
            assert_eq!(
                parent.0.try_wait().unwrap(),
                None,
                "{}",
                std::fs::read_to_string(dir.with_extension("log")).unwrap()
            );
            let said = std::fs::read_to_string(&said_path).unwrap();
            said.contains("get greeting").then_some(said)
        });
        let nodes = said.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, public, "private", private, "process", process] = words[..] else { return None };
            assert!(name.starts_with("node"));
            let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
            Some(Node { public: address(public), private: address(private), process: process.to_owned() })
        });
        let nodes: Vec<Node> = nodes.collect();
        assert_eq!(nodes.len(), 3, "{said}");
        let key = std::fs::read_to_string(dir.join("root.key")).unwrap();
        Self { parent, nodes, key }
    }

    fn client(&self, n: usize) -> Option<Client> {
        Some(Client::try_connect(self.nodes[n].public).ok()?.key(&self.key))
    }

    fn signal_parent(&self, name: &str) {
        let parent = self.parent.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &parent]).status().unwrap().success());
    }
}

fn is_ready(private: SocketAddr) -> bool {
    let Ok(mut client) = Client::try_connect(private) else { return false };
    client.try_request("GET", "/readyz", "").is_ok_and(|answer| answer.status == 200)
}

#[test]
fn a_cluster_for_trying_survives_a_kill_a_stop_and_the_loss_of_its_parent() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("trial");
    let mut dev = Dev::start(&dir);
    for number in 1..=3 {
        let json = std::fs::read(dir.join(format!("node{number}/addresses.json"))).unwrap();
        let addresses: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(addresses["public"], json!(dev.nodes[number - 1].public.to_string()));
        assert!(addresses["peer"].is_string(), "{addresses}");
    }
    assert_eq!(dev.client(0).unwrap().post("/vs", json!({"key": "k", "value": "v"})).status, 200);
    assert_eq!(dev.client(1).unwrap().get("/vs?key=k").json(), json!({"data": "v"}));

    assert!(Command::new("kill").args(["-9", &dev.nodes[0].process]).status().unwrap().success());
    wait_for("a write without the first node", || {
        let set = dev.client(2)?.try_request("POST", "/vs", r#"{"key":"k","value":"w"}"#).ok()?;
        (set.status == 200).then_some(())
    });
    wait_for("the killed node to be started again", || is_ready(dev.nodes[0].private).then_some(()));
    assert_eq!(dev.client(0).unwrap().get("/vs?key=k").json(), json!({"data": "w"}));

    dev.signal_parent("TERM");
    let status = wait_for("the end", || dev.parent.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", std::fs::read_to_string(dir.with_extension("log")).unwrap());
    for node in &dev.nodes {
        assert!(Client::try_connect(node.public).is_err(), "{node:?} still listens");
    }

    let again = Dev::start(&dir);
    let places = |dev: &Dev| -> Vec<_> { dev.nodes.iter().map(|node| (node.public, node.private)).collect() };
    assert_eq!(places(&again), places(&dev), "each node has its addresses again");
    assert_eq!(again.client(2).unwrap().get("/vs?key=k").json(), json!({"data": "w"}));
    again.signal_parent("KILL");
    for node in &again.nodes {
        wait_for("the children to end with their parent", || (!exists(&node.process)).then_some(()));
    }
}

#[test]
fn a_lost_first_node_founds_no_second_cluster() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("trial");
    let dev = Dev::start(&dir);
    let node = |dev: &Dev, n: usize| dev.client(n).unwrap().get("/ping").json()["node"].clone();
    let (old, other) = (node(&dev, 0), node(&dev, 1));
    assert_eq!(dev.client(0).unwrap().post("/vs", json!({"key": "k", "value": "v"})).status, 200);
    drop(dev);
    for name in ["node1/lock", "node2/lock", "node3/lock"] {
        wait_for("the nodes to have ended", || File::open(dir.join(name)).unwrap().try_lock().is_ok().then_some(()));
    }
    std::fs::remove_dir_all(dir.join("node1")).unwrap();
    let dev = Dev::start(&dir);
    assert_ne!(node(&dev, 0), old, "a new disk makes a new node");
    assert_eq!(node(&dev, 1), other);
    assert_eq!(dev.client(0).unwrap().get("/vs?key=k").json(), json!({"data": "v"}));
}

#[test]
fn a_directory_is_one_nodes_or_a_clusters() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |args: &[&str], dir: &Path| {
        let output = insid().args(args).arg("--data-dir").arg(dir).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let cluster = scratch.path().join("cluster");
    assert_eq!(run(&["init", "--nodes", "3"], &cluster).0, Some(0));
    let (code, said) = run(&["dev"], &cluster);
    assert!(code == Some(1) && said.contains("holds a cluster: start it with --nodes"), "{said}");
    let (code, said) = run(&["dev", "--nodes", "5"], &cluster);
    assert!(code == Some(1) && said.contains("holds a cluster of 3 nodes: start it with --nodes 3"), "{said}");
    let (code, said) = run(&["init", "--nodes", "3"], &cluster);
    assert!(code == Some(1) && said.contains("node1.toml exists already; nothing was changed"), "{said}");
    let single = scratch.path().join("single");
    assert_eq!(run(&["init"], &single).0, Some(0));
    let (code, said) = run(&["dev", "--nodes", "3"], &single);
    assert!(code == Some(1) && said.contains("holds a single node: start it without --nodes"), "{said}");
    for nodes in ["0", "8"] {
        assert_eq!(run(&["dev", "--nodes", nodes], &scratch.path().join("none")).0, Some(2));
    }
    assert_eq!(run(&["init", "--nodes", "3", "--host", "a,b"], &scratch.path().join("none")).0, Some(2));
    assert!(!scratch.path().join("none").exists());
}

#[test]
fn each_machine_gets_a_configuration_that_names_the_others() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let done = insid()
        .args(["init", "--host", "a.example,b.example", "--host", "c.example", "--peer-tls", "--data-dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let second = std::fs::read_to_string(dir.join("node2.toml")).unwrap();
    for line in [
        "public_address = \"0.0.0.0:8080\"",
        "private_address = \"127.0.0.1:8081\"",
        "peer_address = \"0.0.0.0:8082\"",
        "peer_advertise = \"b.example:8082\"",
        "public_url = \"http://b.example:8080\"",
        "join = [\"a.example:8082\", \"b.example:8082\", \"c.example:8082\"]",
    ] {
        assert!(second.lines().any(|found| found == line), "{line} in {second}");
    }
    assert!(dir.join("node1/bootstrap").exists() && !dir.join("node2").exists(), "one founds");
}

fn configurations(dir: &Path) -> Vec<PathBuf> {
    (1..=3).map(|number| dir.join(format!("node{number}.toml"))).collect()
}

#[test]
fn what_init_writes_runs_in_any_order_over_mutual_tls() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let init = ["init", "--nodes", "3", "--peer-tls", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"];
    let done = insid().args(init).arg("--data-dir").arg(&dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    let nodes: Vec<Process> = configurations(&dir)
        .iter()
        .rev()
        .map(|config| {
            assert!(said.contains(&format!("insid run --config {}", config.display())), "{said}");
            Process(insid().args(["run", "--config"]).arg(config).spawn().unwrap())
        })
        .collect();
    let addresses: Vec<Value> = (1..=3)
        .map(|number| {
            wait_for("a node to serve", || {
                let json = std::fs::read(dir.join(format!("node{number}/addresses.json"))).ok()?;
                serde_json::from_slice(&json).ok()
            })
        })
        .collect();
    let key = insid().args(["root-key", "--config"]).arg(&configurations(&dir)[1]).output().unwrap();
    let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
    let client = |n: usize| Client::connect(addresses[n]["public"].as_str().unwrap().parse().unwrap()).key(&key);
    for store in ["/vs", "/cache"] {
        assert_eq!(client(0).post(store, json!({"key": "k", "value": "v"})).status, 200);
        for n in 0..3 {
            assert_eq!(client(n).get(&format!("{store}?key=k")).json(), json!({"data": "v"}), "{store} {n}");
        }
    }
    assert_eq!(nodes.len(), 3);
}
