//! `insid init`: configuration files, a secret and, if asked, certificates, ready to run.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, ensure};
use consensus::env::System;

use crate::{
    cli::Init,
    commands::{
        Failure,
        plan::{self, Plan},
    },
    config::Config,
    node::data_dir::write_durably,
    secret::{self, InstanceSecret},
    server,
};

const CONFIG_FILE: &str = "insid.toml";
const PUBLIC_PORT: u16 = 8080;
const PRIVATE_PORT: u16 = 8081;

/// Makes the directory and everything in it; changes nothing when it is a data directory already.
pub(crate) fn init(arguments: &Init) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.data_dir).context("cannot find the data directory")?;
    let said = match (arguments.nodes, &arguments.host[..]) {
        (1, []) => one_node(&dir, arguments)?,
        (count, hosts) => nodes(&dir, count, hosts, arguments)?,
    };
    std::io::stdout().write_all(said.as_bytes()).context("cannot write to standard output")?;
    Ok(())
}

/// A single node, whose directory holds everything.
fn one_node(dir: &Path, arguments: &Init) -> Result<String, Failure> {
    if arguments.peer_tls {
        return Err(Failure::Usage("--peer-tls is for several nodes: give --nodes or --host".to_owned()));
    }
    let config_path = dir.join(CONFIG_FILE);
    let mut config = Config {
        data_dir: dir.to_owned(),
        public_address: arguments.public.unwrap_or(loopback(PUBLIC_PORT)),
        private_address: arguments.private.unwrap_or(loopback(PRIVATE_PORT)),
        instance_secret_file: Some(dir.join(secret::SECRET_FILE)),
        ..Config::default()
    };
    if !arguments.certificate_for.is_empty() {
        plan::serve_https(&mut config, dir);
    }
    config.check_all()?;
    write_one(dir, &config, &arguments.certificate_for)?;
    let shown = config_path.display();
    Ok(format!("Wrote {shown}. Start the node with:\n\n  insid run --config {shown}\n"))
}

fn write_one(dir: &Path, config: &Config, names: &[String]) -> anyhow::Result<()> {
    let env = System::new();
    let config_path = dir.join(CONFIG_FILE);
    ensure!(!config_path.exists(), "{} exists already; nothing was changed", config_path.display());
    server::create_data_dir(dir, &env)?;
    InstanceSecret::read_or_make(dir, &env)?;
    if !names.is_empty() {
        plan::write_certificate(dir, names)?;
    }
    write_durably(dir, CONFIG_FILE, config.to_toml().as_bytes())
}

/// Several nodes, on this machine or each on its own.
fn nodes(dir: &Path, count: u16, hosts: &[String], arguments: &Init) -> Result<String, Failure> {
    let env = System::new();
    let places = if hosts.is_empty() {
        let (public, private) = (arguments.public, arguments.private);
        let (public, private) = (public.unwrap_or(loopback(PUBLIC_PORT)), private.unwrap_or(loopback(PRIVATE_PORT)));
        plan::on_this_machine(count, public, private, &env)?
    } else if count == 1 || usize::from(count) == hosts.len() {
        let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PUBLIC_PORT);
        let (public, private) = (arguments.public, arguments.private);
        plan::on_machines(hosts, public.unwrap_or(everywhere), private.unwrap_or(loopback(PRIVATE_PORT)))?
    } else {
        let hosts = hosts.len();
        return Err(Failure::Usage(format!("--nodes says {count}, and there are {hosts} hosts: give one a node")));
    };
    let certificate_for = &arguments.certificate_for;
    let plan = Plan { dir, places: &places, certificate_for, peer_tls: arguments.peer_tls, makes_secret: true };
    let files = plan.write(&env)?;
    let commands: String = files.iter().map(|file| format!("  insid run --config {}\n", file.display())).collect();
    let what = if hosts.is_empty() {
        "Start the nodes, in any order".to_owned()
    } else {
        format!(
            "Take each node's files to its machine, to the same place: its configuration, what that names, and for the \
                 first one {}. Start the nodes, in any order",
            dir.join("node1").display()
        )
    };
    Ok(format!("Wrote {} configurations in {}. {what}, with:\n\n{commands}", files.len(), dir.display()))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
