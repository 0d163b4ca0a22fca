//! Clusters as people make them: `insid dev --nodes` and `insid init --nodes`, with real processes on loopback.

#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness::{Client, wait_for};
use serde_json::{Value, json};

fn insid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_insid"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// A process that has ended and was waited for, or one that nobody waits for any more, has no command line.
fn is_gone(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn addresses(node_dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(node_dir.join("addresses.json")).ok()?).ok()
}

fn address(addresses: &Value, listener: &str) -> SocketAddr {
    addresses[listener].as_str().unwrap().parse().unwrap()
}

fn cluster_id(node_dir: &Path) -> String {
    let json: Value = serde_json::from_slice(&std::fs::read(node_dir.join("node.json")).unwrap()).unwrap();
    json["cluster_id"].as_str().unwrap().to_owned()
}

/// How many nodes the one behind this private listener sees voting in both groups.
fn voters(private: SocketAddr, root_key: &str) -> usize {
    let Ok(mut client) = Client::try_connect(private) else { return 0 };
    client = client.key(root_key);
    let Ok(answer) = client.try_request("GET", "/admin/cluster/status", "") else { return 0 };
    if answer.status != 200 {
        return 0;
    }
    let votes = |member: &Value| matches!(member["role"].as_str(), Some("leader" | "voter"));
    let nodes = answer.json()["nodes"].as_array().unwrap().clone();
    nodes.iter().filter(|node| node["reachable"] == true && votes(&node["values"]) && votes(&node["cache"])).count()
}

/// Sets a key, as often as it takes: a set may be done twice.
fn set_until_done(public: SocketAddr, root_key: &str, key: &str, value: &str) {
    wait_for("a write to be acknowledged", || {
        let mut client = Client::try_connect(public).ok()?.key(root_key);
        let body = json!({"key": key, "value": value}).to_string();
        let answer = client.try_request("POST", "/vs", &body).ok()?;
        (answer.status == 200).then_some(())
    });
}

fn get(public: SocketAddr, root_key: &str, key: &str) -> Value {
    wait_for("a read to be answered", || {
        let mut client = Client::try_connect(public).ok()?.key(root_key);
        let answer = client.try_request("GET", &format!("/vs?key={key}"), "").ok()?;
        (answer.status == 200).then(|| answer.json()["data"].clone())
    })
}

/// `insid dev --nodes 3`. What is left of it is killed with the value.
struct Dev {
    child: Child,
    dir: PathBuf,
    said: PathBuf,
    log: PathBuf,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    fn start_with(dir: &Path, flags: &[&str]) -> Self {
        let (said, log) = (dir.with_extension("said"), dir.with_extension("log"));
        let mut command = insid(&["dev", "--nodes", "3", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(dir).args(flags);
        command.stdout(File::create(&said).unwrap()).stderr(File::create(&log).unwrap());
        let mut dev = Self { child: command.spawn().unwrap(), dir: dir.to_owned(), said, log };
        wait_for("the cluster to be announced", || {
            assert_eq!(dev.child.try_wait().unwrap(), None, "it ended at its start: {}", text(&dev.log));
            text(&dev.said).contains("stop all with Ctrl-C").then_some(())
        });
        dev
    }

    fn node(&self, number: usize) -> Value {
        addresses(&self.dir.join(format!("node{number}"))).unwrap()
    }

    fn root_key(&self) -> String {
        std::fs::read_to_string(self.dir.join("root.key")).unwrap()
    }

    /// The processes of the nodes, by what was said when each was started last.
    fn pids(&self) -> Vec<u32> {
        let log = text(&self.log);
        let pid = |number: usize| {
            let said = format!("insid dev: node {number} starts (pid ");
            let rest = log.lines().rev().find_map(|line| line.strip_prefix(&said)).unwrap();
            rest.trim_end_matches(')').parse().unwrap()
        };
        (1..=3).map(pid).collect()
    }

    /// Which node leads the Value Store.
    fn leader(&self) -> usize {
        let key = self.root_key();
        let ping = |number: usize| Client::connect(address(&self.node(number), "public")).key(&key).get("/ping").json();
        let leader = ping(1)["leader"].clone();
        (1..=3).find(|number| ping(*number)["node"] == leader).unwrap()
    }

    fn stop(mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        wait_for("the cluster to stop", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = text(&self.log);
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"request\"")).collect();
            #[allow(clippy::print_stderr, reason = "for whoever reads a failed test")]
            {
                eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
    }
}

#[test]
fn a_cluster_to_try_survives_a_kill_a_lost_disk_and_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    let dev = Dev::start(&dir);
    let key = dev.root_key();
    let nodes: Vec<Value> = (1..=3).map(|number| dev.node(number)).collect();
    assert!(nodes.iter().all(|node| node["peer"].is_string()), "{nodes:?}");
    for secret in ["root.key", "instance_secret"] {
        assert_eq!(mode(&dir.join(secret)), 0o600);
    }
    let public = |number: usize| address(&nodes[number - 1], "public");
    let said = text(&dev.said);
    let list: Vec<String> = (1..=3).map(|number| format!("http://{}", public(number))).collect();
    assert!(said.contains(&format!("export INSIDB_URL={}\n", list.join(","))), "{said}");
    set_until_done(public(2), &key, "before", "1");

    // The leader is killed: the others go on, and the one who watches says so and how to start it again.
    let leader = dev.leader();
    let survivor = leader % 3 + 1;
    let killed = dev.pids()[leader - 1];
    signal(killed, "KILL");
    set_until_done(public(survivor), &key, "during", "2");
    let how = format!("start it again with: kill -USR1 {}", dev.child.id());
    let told = format!("insid dev: node {leader} (pid {killed}) has ended (signal: 9 (SIGKILL)); {how}");
    wait_for("the end to be told", || text(&dev.log).contains(&told).then_some(()));

    // It lost its disk besides. Node 1 too is then a new member, and founds nothing.
    let node_dir = dir.join(format!("node{leader}"));
    let id = cluster_id(&dir.join(format!("node{survivor}")));
    std::fs::remove_dir_all(&node_dir).unwrap();
    signal(dev.child.id(), "USR1");
    wait_for("the node to serve again", || {
        text(&dev.log)
            .contains(&format!("insid dev: node {leader} (pid {}) serves again", dev.pids()[leader - 1]))
            .then_some(())
    });
    assert_eq!(cluster_id(&node_dir), id);
    assert_eq!(get(public(leader), &key, "during"), "2");
    wait_for("three voters", || (voters(address(&nodes[survivor - 1], "private"), &key) == 3).then_some(()));

    let pids = dev.pids();
    assert_eq!(dev.stop(), Some(0));
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");

    // The same ports, the same cluster, the same values.
    let dev = Dev::start(&dir);
    assert_eq!((1..=3).map(|number| dev.node(number)).collect::<Vec<_>>(), nodes);
    assert_eq!(cluster_id(&dir.join("node1")), id);
    assert_eq!(get(public(3), &key, "before"), "1");
    // A second signal ends all at once.
    let pids = dev.pids();
    for pid in &pids {
        signal(*pid, "STOP");
    }
    let mut dev = dev;
    signal(dev.child.id(), "INT");
    wait_for("the second signal to end all", || {
        signal(dev.child.id(), "INT");
        dev.child.try_wait().unwrap()
    });
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");
}

#[test]
fn nodes_whose_supervisor_is_killed_end_by_themselves() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&home.path().join("dev"));
    let pids = dev.pids();
    dev.child.kill().unwrap();
    dev.child.wait().unwrap();
    wait_for("the nodes to end", || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
    // In order, so nobody is found at addresses that are free.
    assert!((1..=3).all(|number| addresses(&dev.dir.join(format!("node{number}"))).is_none()));
}

#[test]
fn one_node_and_several_do_not_share_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    let shown = dir.to_str().unwrap();
    let refused = |arguments: &[&str], reason: &str| {
        let output = insid(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    };
    refused(&["dev", "--nodes", "0"], "0 is not in 1..=7");
    refused(&["dev", "--nodes", "8"], "8 is not in 1..=7");
    drop(harness::Server::start(&dir));
    refused(&["dev", "--nodes", "3", "--data-dir", shown], "holds a single node");
    // And the reverse: what the first start of several leaves is enough.
    let several = home.path().join("several");
    std::fs::create_dir(&several).unwrap();
    let node = json!({"public": "127.0.0.1:1", "private": "127.0.0.1:2", "peer": "127.0.0.1:3"});
    let plan = json!({"format": 1, "nodes": [node, node, node]});
    std::fs::write(several.join("cluster.json"), plan.to_string()).unwrap();
    refused(&["dev", "--data-dir", several.to_str().unwrap()], "start it with --nodes 3");
}

/// `init --nodes 3`, and its nodes by `run`, killed with the value.
struct Made {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Made {
    fn init(dir: &Path, flags: &[&str]) -> Self {
        let mut command = insid(&["init", "--nodes", "3", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]);
        let output = command.args(flags).arg("--data-dir").arg(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { dir: dir.to_owned(), children: Vec::new() }
    }

    fn config(&self, number: usize) -> String {
        self.dir.join(format!("node{number}/insid.toml")).to_str().unwrap().to_owned()
    }

    /// From a directory of no meaning: the files name one another relative to themselves.
    fn run(&mut self, number: usize) {
        let log = File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let mut command = insid(&["run", "--config", &self.config(number)]);
        self.children.push(command.current_dir("/").stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn await_voters(&mut self, count: usize) {
        let key = insid(&["root-key", "--config", &self.config(2)]).output().unwrap().stdout;
        let key = String::from_utf8(key).unwrap();
        let log = self.dir.with_extension("log");
        wait_for("the nodes to vote", || {
            for child in &mut self.children {
                assert_eq!(child.try_wait().unwrap(), None, "a node ended: {}", text(&log));
            }
            let node = addresses(&self.dir.join("node3/data"))?;
            (voters(address(&node, "private"), key.trim()) == count).then_some(())
        });
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn configurations_of_init_form_a_cluster_in_any_order_with_and_without_tls() {
    for flags in [Vec::new(), vec!["--peer-tls"]] {
        let home = tempfile::tempdir().unwrap();
        let mut made = Made::init(&home.path().join("made"), &flags);
        let tls = ["node2/peer.key", "node2/peer.crt", "node2/peer-ca.crt", "peer-ca.key"];
        for file in tls.iter().filter(|_| !flags.is_empty()).chain(&["node2/instance_secret", "node2/insid.toml"]) {
            assert_eq!(mode(&made.dir.join(file)), 0o600, "{file}");
        }
        assert!(!made.dir.join("node2/peer-ca.key").exists());
        let checked = insid(&["check-config", &made.config(3)]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        for number in [3, 2, 1] {
            made.run(number);
        }
        made.await_voters(3);
        let again = insid(&["init", "--nodes", "3", "--data-dir", made.dir.to_str().unwrap()]).output().unwrap();
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(again.status.code() == Some(1) && said.contains("nothing was changed"), "{said}");
    }
}

/// Three nodes that run, where the first one's data is, and a copy of it from before it founded.
fn with_copied_permission(home: &Path) -> (Made, PathBuf, PathBuf) {
    let mut made = Made::init(&home.join("made"), &[]);
    let (data, copy) = (made.dir.join("node1/data"), home.join("copy"));
    assert!(Command::new("cp").arg("-r").args([&data, &copy]).status().unwrap().success());
    for number in [1, 2, 3] {
        made.run(number);
    }
    made.await_voters(3);
    (made, data, copy)
}

#[test]
fn a_copied_permission_founds_no_second_cluster() {
    let home = tempfile::tempdir().unwrap();
    let (mut made, data, copy) = with_copied_permission(home.path());
    let mut founder = made.children.remove(0);
    founder.kill().unwrap();
    founder.wait().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    let second = insid(&["run", "--config", &made.config(1)]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.code() == Some(1) && said.contains("this data directory is a copy"), "{said}");
    // Without it, the node is a new member and takes the lost one's place.
    std::fs::remove_dir_all(&data).unwrap();
    made.run(1);
    made.await_voters(3);
}

#[test]
fn a_second_founding_ends_when_the_first_cluster_is_there_again() {
    let home = tempfile::tempdir().unwrap();
    let (mut made, data, copy) = with_copied_permission(home.path());
    for mut child in made.children.drain(..) {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    made.run(1);
    wait_for("the second cluster to be founded", || addresses(&data));
    made.run(2);
    made.run(3);
    let ended = wait_for("the second founder to end", || made.children[0].try_wait().unwrap());
    // It finds it out by itself, or by the state that it brings into the first cluster.
    let said = text(&made.dir.with_extension("log"));
    let reasons = ["this data directory is a copy", "this node's state differs from the other nodes'"];
    assert!(ended.code() == Some(1) && reasons.iter().any(|reason| said.contains(reason)), "{said}");
    made.children.remove(0).wait().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    made.run(1);
    made.await_voters(3);
}

#[test]
fn machines_are_configured_by_name_and_by_address() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("made");
    let hosts = ["--node", "db1.example", "--node", "10.0.0.2,10.0.0.3"];
    let tls = ["--peer-tls", "--certificate-for", "db1.example"];
    let output = insid(&["init", "--data-dir", dir.to_str().unwrap()]).args(hosts).args(tls).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let join = r#"join = ["db1.example:8082", "10.0.0.2:8082", "10.0.0.3:8082"]"#;
    let expected = [
        [
            r#"peer_address = "0.0.0.0:8082""#,
            r#"peer_advertise = "db1.example:8082""#,
            r#"public_url = "https://db1.example:8080""#,
        ],
        [
            r#"peer_address = "10.0.0.2:8082""#,
            r#"public_address = "10.0.0.2:8080""#,
            r#"private_address = "127.0.0.1:8081""#,
        ],
    ];
    for (number, lines) in (1..).zip(&expected) {
        let config = text(&dir.join(format!("node{number}/insid.toml")));
        for line in lines.iter().chain(&[join, r#"data_dir = "data""#]) {
            assert!(config.lines().any(|found| found == *line), "{line} in {config}");
        }
    }
    assert!(dir.join("node1/data/bootstrap").exists());
    assert!(!dir.join("node2/data").exists());
    let refused = insid(&["init", "--data-dir", "/nowhere", "--node", "a:1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// What one node of its own logs from its start to its stop.
fn one_node_logs(dir: &Path, flags: &[&str]) -> String {
    let mut command = insid(&["dev", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(dir).args(flags);
    let log = dir.with_extension("log");
    let mut child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    wait_for("the node to listen", || {
        assert_eq!(child.try_wait().unwrap(), None, "it ended at its start: {}", text(&log));
        addresses(dir)
    });
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    text(&log)
}

#[test]
fn a_log_level_holds_for_one_node_and_for_all_of_a_cluster() {
    let home = tempfile::tempdir().unwrap();
    assert!(one_node_logs(&home.path().join("info"), &[]).contains("\"listening\""));
    assert_eq!(one_node_logs(&home.path().join("error"), &["--log-level", "error"]), "");

    let dev = Dev::start_with(&home.path().join("all"), &["--log-level", "off"]);
    let log = dev.log.clone();
    assert_eq!(dev.stop(), Some(0));
    let of_nodes: Vec<String> =
        text(&log).lines().filter(|line| !line.starts_with("insid dev: ")).map(str::to_owned).collect();
    assert!(of_nodes.is_empty(), "{of_nodes:?}");
}
