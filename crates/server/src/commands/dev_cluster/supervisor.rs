//! Starts the nodes, looks after them, and stops them.

use std::{io::Write, path::Path, process::ExitStatus, time::Duration};

use anyhow::{Context, bail, ensure};
use consensus::env::{Env, System};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Cluster,
    process::{Process, say},
    watch::all_vote,
};
use crate::{
    commands::{dev::quoted, init::CONFIG_FILE},
    config::Environment,
    node::data_dir,
    secret,
    server::{ADDRESSES_FILE, Signals},
};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// For how long after the signal to start what has ended a process still counts that was killed just before, and whose end
/// is not known yet.
const AGAIN_TIME: Duration = Duration::from_secs(2);
/// How long a node may take to stop: longer than what is in flight may (`shutdown_timeout_ms`).
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a node of an earlier run, whose supervisor was killed, may take to stop by itself.
const LEFTOVER_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the last lines of a node's log may take.
const LOG_TIME_MAX: Duration = Duration::from_secs(1);

/// A node as the supervisor has it.
struct Node {
    number: usize,
    process: Option<Process>,
    /// Whether it has served since it was started.
    serves: bool,
}

pub(super) struct Supervisor<'a> {
    cluster: Cluster,
    environment: &'a Environment,
    /// That of the command line, for every node.
    log_level: Option<&'a str>,
    env: System,
    nodes: Vec<Node>,
    is_announced: bool,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(cluster: Cluster, environment: &'a Environment, log_level: Option<&'a str>) -> Self {
        let nodes = (1..=cluster.nodes.len()).map(|number| Node { number, process: None, serves: false }).collect();
        Self { cluster, environment, log_level, env: System::new(), nodes, is_announced: false }
    }

    /// Runs the nodes until a signal ends them.
    ///
    /// # Errors
    /// When a node ends before the cluster was ready, or does not stop in order.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut signals = Signals::new(None)?;
        let ended = tokio::select! {
            failed = self.look_after() => failed,
            () = signals.next() => Ok(()),
        };
        let stopped = tokio::select! {
            stopped = self.stop() => Some(stopped),
            () = signals.next() => None,
        };
        let Some(stopped) = stopped else {
            self.kill();
            std::process::exit(1);
        };
        ended.and(stopped)
    }

    /// Starts the nodes and looks after them; returns only with what ends them all.
    async fn look_after(&mut self) -> anyhow::Result<()> {
        // SIGUSR1, and not SIGHUP, which a closed terminal sends.
        let mut again = signal(SignalKind::user_defined1()).context("cannot wait for signals")?;
        self.start_missing().await?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again_until = Instant::now();
        loop {
            tokio::select! {
                _ = again.recv() => again_until = Instant::now() + AGAIN_TIME,
                _ = looks.tick() => {}
            }
            self.look().await?;
            if Instant::now() < again_until {
                self.start_missing().await?;
            }
        }
    }

    /// Starts every node that does not run.
    async fn start_missing(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if node.process.is_some() {
                continue;
            }
            let number = node.number;
            let dir = self.cluster.node_dir(number);
            self.cluster.configure(number)?;
            await_unlocked(&dir, number).await?;
            // From now on it is there when this process serves.
            drop(std::fs::remove_file(dir.join(ADDRESSES_FILE)));
            let name = format!("node{number}");
            let (config, env) = (dir.join(CONFIG_FILE), &self.env as &dyn Env);
            let process = Process::start(&name, &config, self.log_level, self.environment, env)?;
            say(&format!("node {number} starts (pid {})", process.pid()));
            node.process = Some(process);
            node.serves = false;
        }
        Ok(())
    }

    /// Looks at every node once, and says what has changed.
    async fn look(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            let number = node.number;
            let Some(process) = &mut node.process else { continue };
            let pid = process.pid();
            if let Some(status) = process.ended() {
                if let Some(process) = node.process.take() {
                    let _ = timeout(LOG_TIME_MAX, process.log_passed_on()).await;
                }
                if !self.is_announced {
                    bail!("node {number} has ended at its start ({status}); what it logged says why");
                }
                say(&format!(
                    "node {number} (pid {pid}) has ended ({status}); start it again with: kill -USR1 {}",
                    std::process::id()
                ));
            } else if !node.serves && self.cluster.node_dir(number).join(ADDRESSES_FILE).exists() {
                node.serves = true;
                if self.is_announced {
                    say(&format!("node {number} (pid {pid}) serves again"));
                }
            }
        }
        if !self.is_announced && self.nodes.iter().all(|node| node.serves) {
            self.announce_when_whole().await;
        }
        Ok(())
    }

    async fn announce_when_whole(&mut self) {
        let Cluster { nodes, root_key, .. } = &self.cluster;
        if all_vote(nodes[0].private, root_key, nodes.len()).await {
            self.is_announced = true;
            // Where nobody reads standard output, the cluster runs all the same.
            drop(std::io::stdout().write_all(self.announcement().as_bytes()));
        }
    }

    /// What a newcomer needs, with lines to paste.
    fn announcement(&self) -> String {
        let Cluster { dir, nodes, .. } = &self.cluster;
        let mut said = format!("InsiDB is ready, with {} nodes.\n\n", nodes.len());
        for (node, addresses) in self.nodes.iter().zip(nodes) {
            let pid = node.process.as_ref().map_or(0, Process::pid);
            said += &format!(
                "  node {}  public http://{}  private http://{}  peer {}  pid {pid}\n",
                node.number, addresses.public, addresses.private, addresses.peer
            );
        }
        let key_path = dir.join(secret::ROOT_KEY_FILE);
        let (shown, key) = (key_path.display(), quoted(&key_path.to_string_lossy()));
        let urls = |of: fn(&super::NodeAddresses) -> std::net::SocketAddr| {
            nodes.iter().map(|node| format!("http://{}", of(node))).collect::<Vec<_>>().join(",")
        };
        let (public, private) = (urls(|node| node.public), urls(|node| node.private));
        let path = format!("{}{}", api::path::BASE, api::path::VS);
        let (first, last) = (nodes[0].public, nodes[nodes.len() - 1].public);
        let own = std::process::id();
        said += &format!(
            "  root key  {shown}

Try it. Any node takes any request, and the command line goes on when one is down:

  curl -H \"Authorization: Bearer $(cat {key})\" -d '{{\"key\":\"greeting\",\"value\":\"hello\"}}' http://{first}{path}
  curl -H \"Authorization: Bearer $(cat {key})\" 'http://{last}{path}?key=greeting'
  export INSIDB_API_KEY=$(cat {key})
  export INSIDB_URL={public}
  export INSIDB_ADMIN_URL={private}
  insic get greeting
  insic cluster status

Kill a node with `kill -9 PID`; start what has ended with `kill -USR1 {own}`; stop all with Ctrl-C.

"
        );
        said
    }

    /// Stops the nodes one after another, so that those that are left serve and lead meanwhile.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            process.ask_to_stop();
            let fault = match await_end(process, STOP_TIME_MAX).await {
                Some(status) if status.success() => None,
                Some(status) => Some(format!("node {} has ended with {status}", node.number)),
                None => {
                    process.kill();
                    let seconds = STOP_TIME_MAX.as_secs();
                    Some(format!("node {} did not stop within {seconds} s and was killed", node.number))
                }
            };
            faults.extend(fault);
            if let Some(process) = node.process.take() {
                let _ = timeout(LOG_TIME_MAX, process.log_passed_on()).await;
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    }

    fn kill(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            process.kill();
        }
    }
}

/// How the process has ended; none when it has not within `time_max`.
async fn await_end(process: &mut Process, time_max: Duration) -> Option<ExitStatus> {
    let ended = async {
        loop {
            if let Some(status) = process.ended() {
                return status;
            }
            sleep(LOOK / 5).await;
        }
    };
    timeout(time_max, ended).await.ok()
}

/// Waits for a node that lost its supervisor to end: it notices, and stops by itself.
async fn await_unlocked(dir: &Path, number: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEFTOVER_TIME_MAX;
    loop {
        match data_dir::lock(dir) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.context(format!("node {number}"))),
            Err(_) => sleep(LOOK).await,
        }
    }
}
