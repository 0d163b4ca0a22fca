//! `insid dev --nodes N`: a cluster on this machine, for trying failover.
//!
//! 1. The directory holds what `insid init --nodes` would write, made at the first start: so the addresses stay, and each
//!    node can be run by hand with its file.
//! 2. Each node is a child process, `insid run`. What it logs is passed on with its name before it.
//! 3. A child that is killed is started again after [`RESTART_PAUSE`]: long enough to see the others go on.
//! 4. A signal stops them one after another, each in order; a second one ends all at once. A child stops when its standard
//!    input ends: also when this process is killed.

use std::{
    fs, io,
    io::{BufRead, BufReader, IsTerminal, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use consensus::env::{Env, System};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use crate::{
    cli::Dev,
    commands::{
        Failure,
        dev::{authorization, leave_root_key, quoted},
        plan::{self, Plan, config_file},
        run::{effective, instance_secret},
    },
    config::{Config, ENVIRONMENT_PREFIX, Environment, file},
    node::data_dir::DataDir,
    secret,
    server::{ADDRESSES_FILE, Signals},
};

/// How long a node that was killed stays away.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// How long a node may take to stop in order.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// How often the nodes are looked at.
const WATCH: Duration = Duration::from_millis(20);
/// Settings that differ from node to node: an environment that sets them for all would make them one.
const SETTINGS_OF_ONE_NODE: &[&str] = &[
    "data_dir",
    "public_address",
    "private_address",
    "instance_secret_file",
    "peer_address",
    "peer_advertise",
    "join",
    "peer_tls_certificate",
    "peer_tls_key",
    "peer_tls_ca",
    "public_url",
];

/// Runs until a signal ends it.
pub(super) fn run(count: u16, arguments: &Dev, environment: &Environment) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.data_dir).context("cannot find the data directory")?;
    let nodes = find_or_make(&dir, count, arguments, environment)?;
    let first = config_file(&dir, 1);
    let secret = instance_secret(&effective(&first, &Environment::default(), &[])?, &first, environment)?;
    let key_path = leave_root_key(&dir, &secret)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(supervise(nodes, &key_path))?;
    Ok(())
}

/// What is known of one node before it runs.
struct Plot {
    /// From 1.
    number: usize,
    config_path: PathBuf,
    config: Config,
}

impl Plot {
    fn name(&self) -> String {
        format!("node{}", self.number)
    }

    fn run_command(&self) -> String {
        format!("insid run --config {}", quoted(&self.config_path.to_string_lossy()))
    }
}

/// The nodes of the directory; made when there are none.
fn find_or_make(dir: &Path, count: u16, arguments: &Dev, environment: &Environment) -> Result<Vec<Plot>, Failure> {
    let shown = dir.display();
    if DataDir::exists(dir) {
        let hint = "start it without --nodes, or take another --data-dir";
        return Err(anyhow!("{shown} holds a single node: {hint}").into());
    }
    let found = (1..).take_while(|number| config_file(dir, *number).exists()).count();
    if found == 0 {
        let env = System::new();
        let places = plan::on_this_machine(count, arguments.public, arguments.private, &env)?;
        let makes_secret = environment.get(secret::VARIABLE).is_none();
        Plan { dir, places: &places, certificate_for: &[], peer_tls: false, makes_secret }.write(&env)?;
    } else if found != usize::from(count) {
        return Err(anyhow!("{shown} holds a cluster of {found} nodes: start it with --nodes {found}").into());
    }
    let plot = |number| {
        let config_path = config_file(dir, number);
        Ok(Plot { number, config: file::read(&config_path)?, config_path })
    };
    (1..=usize::from(count)).map(plot).collect()
}

/// A child that runs.
struct Running {
    child: Child,
    /// Its standard input: it stops when this is dropped.
    input: Option<ChildStdin>,
    is_ready: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How a node stands.
enum Standing {
    Runs(Running),
    /// Killed, and started again at this moment.
    Away(Instant),
    /// It did not start: that is left to whoever reads why.
    Down,
}

struct Supervisor {
    env: System,
    program: PathBuf,
    plots: Vec<Plot>,
    nodes: Vec<Standing>,
    is_announced: bool,
}

async fn supervise(plots: Vec<Plot>, key_path: &str) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut supervisor = Supervisor { env: System::new(), program, plots, nodes: Vec::new(), is_announced: false };
    for n in 0..supervisor.plots.len() {
        let running = supervisor.start(n)?;
        supervisor.nodes.push(Standing::Runs(running));
    }
    let failure = loop {
        tokio::select! {
            () = signals.next() => break None,
            () = sleep(WATCH) => {}
        }
        if let Err(failure) = supervisor.look(key_path) {
            break Some(failure);
        }
    };
    let stopped = tokio::select! {
        stopped = supervisor.stop() => stopped,
        () = signals.next() => Err(anyhow!("ended at once by a second signal")),
    };
    failure.map_or(stopped, Err)
}

impl Supervisor {
    fn start(&self, n: usize) -> anyhow::Result<Running> {
        let plot = &self.plots[n];
        // A killed process leaves its own.
        drop(fs::remove_file(plot.config.data_dir.join(ADDRESSES_FILE)));
        let mut command = Command::new(&self.program);
        command.args(["run", "--until-stdin-ends", "--config"]).arg(&plot.config_path);
        for setting in SETTINGS_OF_ONE_NODE {
            command.env_remove(format!("{ENVIRONMENT_PREFIX}{}", setting.to_uppercase()));
        }
        if io::stderr().is_terminal() {
            command.env("INSIDB_LOG_FORMAT", "text");
        }
        // In a process group of its own a Ctrl-C reaches this process alone, which then stops one after another.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", plot.name()))?;
        let output = child.stderr.take().context("the child has no standard error")?;
        let input = child.stdin.take();
        let name = plot.name();
        self.env.spawn("insid-output", Box::new(move || pass_on(&name, output))).context("cannot start a thread")?;
        Ok(Running { child, input, is_ready: false })
    }

    /// Sees what has become of each node, and does what is due.
    fn look(&mut self, key_path: &str) -> anyhow::Result<()> {
        for n in 0..self.plots.len() {
            let next = match &mut self.nodes[n] {
                Standing::Runs(running) => match running.child.try_wait().context("cannot wait for a child")? {
                    None => {
                        running.is_ready |= self.plots[n].config.data_dir.join(ADDRESSES_FILE).exists();
                        continue;
                    }
                    Some(status) => self.after_end(n, status)?,
                },
                Standing::Away(until) if Instant::now() >= *until => Standing::Runs(self.start(n)?),
                Standing::Away(_) | Standing::Down => continue,
            };
            self.nodes[n] = next;
        }
        let is_ready = |node: &Standing| matches!(node, Standing::Runs(Running { is_ready: true, .. }));
        if !self.is_announced && self.nodes.iter().all(is_ready) {
            self.is_announced = true;
            // Where nobody reads standard output, the nodes serve all the same.
            drop(io::stdout().write_all(self.announcement(key_path).as_bytes()));
        }
        Ok(())
    }

    /// A node that served is started again; one that never did has said why, and would say it again.
    fn after_end(&self, n: usize, status: ExitStatus) -> anyhow::Result<Standing> {
        let Standing::Runs(running) = &self.nodes[n] else { return Ok(Standing::Down) };
        let (plot, process) = (&self.plots[n], running.child.id());
        let name = plot.name();
        if !self.is_announced {
            bail!("{name} has ended before the cluster was ready: {status}");
        }
        if running.is_ready {
            let pause = RESTART_PAUSE.as_secs();
            say(&format!("{name} (process {process}) has ended: {status}. It is started again in {pause} s"));
            Ok(Standing::Away(Instant::now() + RESTART_PAUSE))
        } else {
            say(&format!("{name} did not start: {status}. Start it yourself: {}", plot.run_command()));
            Ok(Standing::Down)
        }
    }

    /// Stops the nodes one after another; kills one that does not stop in time.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let mut late = Vec::new();
        for (n, node) in self.nodes.iter_mut().enumerate() {
            let Standing::Runs(running) = node else { continue };
            running.input = None;
            let until = Instant::now() + STOP_TIME_MAX;
            while running.child.try_wait().context("cannot wait for a child")?.is_none() {
                if Instant::now() >= until {
                    late.push(self.plots[n].name());
                    break;
                }
                sleep(WATCH).await;
            }
            *node = Standing::Down;
        }
        if late.is_empty() { Ok(()) } else { bail!("killed, since it did not stop in time: {}", late.join(", ")) }
    }

    fn announcement(&self, key_path: &str) -> String {
        let url = |n: usize| format!("http://{}", self.plots[n].config.public_address);
        let vs = |n: usize| format!("{}{}{}", url(n), api::path::BASE, api::path::VS);
        let process = |n: usize| match &self.nodes[n] {
            Standing::Runs(running) => running.child.id().to_string(),
            Standing::Away(_) | Standing::Down => "none".to_owned(),
        };
        let key = authorization(key_path);
        let mut said = format!("InsiDB is ready: {} nodes.\n\n", self.plots.len());
        for (n, plot) in self.plots.iter().enumerate() {
            let (public, private) = (url(n), plot.config.private_address);
            said += &format!("  {}  {public}  private http://{private}  process {}\n", plot.name(), process(n));
        }
        let urls: Vec<String> = (0..self.plots.len()).map(url).collect();
        said + &format!(
            "
  root key  {key_path}

Write through one, read through another:

  curl -H {key} -d '{{\"key\":\"greeting\",\"value\":\"hello\"}}' {}
  curl -H {key} '{}?key=greeting'

Kill one, and ask the others; it is started again after {} s:

  kill -9 {}
  insic --url {} --key \"$(cat {})\" get greeting
",
            vs(0),
            vs(1),
            RESTART_PAUSE.as_secs(),
            process(0),
            urls.join(","),
            quoted(key_path)
        )
    }
}

/// Passes on what a node logs, line by line, behind its name.
fn pass_on(name: &str, output: ChildStderr) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        say(&format!("{name}  {}", String::from_utf8_lossy(&line)));
    }
}

fn say(line: &str) {
    // Where standard error is gone, there is nobody to tell.
    drop(writeln!(io::stderr().lock(), "{line}"));
}
