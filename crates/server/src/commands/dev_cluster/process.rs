//! A node's process: this program's `run`, on a leash.
//!
//! The leash is the pipe to its standard input, which this process alone holds: when it is closed, or this process is
//! killed, the node stops in order. So no node outlives its supervisor with its ports taken and nobody knowing.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read, Write, stderr},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use anyhow::Context;
use consensus::env::Env;
use tokio::sync::oneshot;

use crate::config::{ENVIRONMENT_PREFIX, Environment};

/// Settings that differ between the nodes, or that a development cluster has none of: not taken from the environment.
const OWN: [&str; 16] = [
    "data_dir",
    "public_address",
    "private_address",
    "public_url",
    "peer_address",
    "peer_advertise",
    "join",
    "public_tls_certificate",
    "public_tls_key",
    "private_tls_certificate",
    "private_tls_key",
    "peer_tls_certificate",
    "peer_tls_key",
    "peer_tls_ca",
    "instance_secret_file",
    "log_format",
];

/// A running node, or one that has just ended.
pub(super) struct Process {
    child: Child,
    leash: Option<ChildStdin>,
    /// Is told when all of its log has been passed on.
    log_ended: oneshot::Receiver<()>,
}

impl Process {
    /// Starts the node of a configuration file; what it logs goes to standard error behind `name`.
    pub(super) fn start(
        name: &str,
        config: &Path,
        log_level: Option<&str>,
        environment: &Environment,
        env: &dyn Env,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["run", "--stop-with-stdin", "--config"]).arg(config);
        command.args(log_level.iter().flat_map(|level| ["--log-level", level]));
        for setting in OWN {
            command.env_remove(format!("{ENVIRONMENT_PREFIX}{}", setting.to_uppercase()));
        }
        let log_format = format!("{ENVIRONMENT_PREFIX}LOG_FORMAT");
        let chosen = environment.get(&log_format).unwrap_or("auto");
        // The node itself sees a pipe.
        command.env(log_format, if chosen == "auto" && stderr().is_terminal() { "text" } else { chosen });
        // Ctrl-C at a terminal is for this process alone, which stops the nodes in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start the process of {name}"))?;
        let (leash, log) = (child.stdin.take(), child.stderr.take());
        let (ended, log_ended) = oneshot::channel();
        let prefix = format!("{name} | ");
        let pass_on = move || {
            if let Some(log) = log {
                pass_on(log, &prefix);
            }
            drop(ended);
        };
        drop(env.spawn("insid-node-log", Box::new(pass_on)).context("cannot start a thread for a node's log")?);
        Ok(Self { child, leash, log_ended })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended; none while it runs.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks for its end, in order.
    pub(super) fn ask_to_stop(&mut self) {
        self.leash = None;
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        // It fails only for a process that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Returns when all that the ended process has logged is passed on.
    pub(super) async fn log_passed_on(self) {
        // The thread says nothing: it drops the sender.
        let _ = self.log_ended.await;
    }
}

/// Says a line of this program's own among what the nodes log.
pub(super) fn say(line: &str) {
    // Where nobody reads standard error, the cluster runs all the same.
    drop(stderr().write_all(format!("insid dev: {line}\n").as_bytes()));
}

/// Passes a log on, line by line.
fn pass_on(log: impl Read, prefix: &str) {
    let mut log = BufReader::new(log);
    loop {
        let mut line = prefix.as_bytes().to_vec();
        match log.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            // In one piece, so that the lines of two nodes do not mix. What cannot be written is lost, as it is when a
            // node's own standard error is gone.
            Ok(_) => drop(stderr().write_all(&line)),
        }
    }
}
