//! `insid init`: configuration files, a secret and, if asked, certificates, ready to run.
//!
//! One node lies in `DIR` itself. Several lie in `DIR/node1`, `DIR/node2`, …: each directory holds all that its node needs,
//! names its files relative to itself, and so may be moved to the node's machine. The first one's data directory carries
//! the permission to found the cluster, once; all of them name all peers in `join`.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use consensus::env::System;

use super::{
    Failure,
    addresses::one_after_another,
    certificates::{
        Authority, CERTIFICATE_FILE, KEY_FILE, PEER_CA_FILE, PEER_CA_KEY_FILE, PEER_CERTIFICATE_FILE, PEER_KEY_FILE,
        Pair,
    },
};
use crate::{
    cli::Init,
    config::Config,
    node::data_dir::{create_private_dir, write_durably},
    secret::{self, InstanceSecret},
    server,
};

/// The file that `init` writes for a node.
pub(crate) const CONFIG_FILE: &str = "insid.toml";
/// Where a node of several keeps its data, beside its configuration.
const DATA_DIR: &str = "data";
/// Most nodes that are set up.
const NODES_MAX: usize = 7;
/// Where tenants' requests are taken when nothing else is asked for.
pub(crate) const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where operators' requests are taken when nothing else is asked for.
pub(crate) const PRIVATE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

/// Makes the directory and everything in it; changes nothing when there is something of it already.
pub(crate) fn init(arguments: &Init) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.data_dir).context("cannot find the data directory")?;
    let members = members(arguments)?;
    let said = match members {
        Some(members) => init_cluster(&dir, arguments, &members)?,
        None if arguments.peer_tls => {
            return Err(Failure::Usage("--peer-tls is for several nodes: give --nodes or --node too".to_owned()));
        }
        None => init_node(&dir, arguments)?,
    };
    std::io::stdout().write_all(said.as_bytes()).context("cannot write to standard output")?;
    Ok(())
}

fn init_node(dir: &Path, arguments: &Init) -> Result<String, Failure> {
    let mut config = Config {
        data_dir: ".".into(),
        public_address: arguments.public.unwrap_or(PUBLIC),
        private_address: arguments.private.unwrap_or(PRIVATE),
        instance_secret_file: Some(secret::SECRET_FILE.into()),
        ..Config::default()
    };
    let names = &arguments.certificate_for;
    let listeners = listener_certificate(&mut config, names)?;
    config.check_all()?;
    let path = dir.join(CONFIG_FILE);
    refuse_existing(&path)?;
    let env = System::new();
    server::create_data_dir(dir, &env)?;
    InstanceSecret::read_or_make(dir, &env)?;
    if let Some(pair) = listeners {
        pair.write(dir, CERTIFICATE_FILE, KEY_FILE)?;
    }
    write_durably(dir, CONFIG_FILE, config.to_toml().as_bytes())?;
    let shown = path.display();
    Ok(format!("Wrote {shown}. Start the node with:\n\n  insid run --config {shown}\n"))
}

/// A node of the cluster that is set up.
struct Member {
    /// The machine that it is for; none for the machine at hand.
    host: Option<String>,
    public: SocketAddr,
    private: SocketAddr,
    /// Where it listens for the others.
    peer: SocketAddr,
    /// What the others call that, as `host:port`.
    advertised: String,
}

/// The nodes that are asked for; none for a single one in `DIR` itself.
fn members(arguments: &Init) -> Result<Option<Vec<Member>>, Failure> {
    let local = |count| -> Result<Vec<Member>, Failure> {
        let (public, private) = (arguments.public.unwrap_or(PUBLIC), arguments.private.unwrap_or(PRIVATE));
        let nodes = one_after_another(public, private, count, &System::new())?;
        let member = |node: super::addresses::NodeAddresses| Member {
            host: None,
            public: node.public,
            private: node.private,
            peer: node.peer,
            advertised: node.peer.to_string(),
        };
        Ok(nodes.into_iter().map(member).collect())
    };
    match (arguments.nodes, arguments.node.as_slice()) {
        (None | Some(1), []) => Ok(None),
        (Some(count), _) => local(count).map(Some),
        (None, hosts) => remote(arguments, hosts).map(Some),
    }
}

/// A node on each of these machines, at the same ports.
fn remote(arguments: &Init, hosts: &[String]) -> Result<Vec<Member>, Failure> {
    if hosts.len() > NODES_MAX || hosts.iter().collect::<BTreeSet<_>>().len() < hosts.len() {
        return Err(Failure::Usage(format!("--node names each machine once, {NODES_MAX} at most")));
    }
    let member = |host: &String| {
        let address: Option<IpAddr> = host.parse().ok();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        if address.is_none() && (host.is_empty() || !host.chars().all(is_name)) {
            return Err(Failure::Usage(format!("--node takes a host's name or address without a port, not `{host}`")));
        }
        // A name may be any of the machine's addresses.
        let listen = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let advertised = match address {
            Some(address) => SocketAddr::new(address, arguments.peer_port).to_string(),
            None => format!("{host}:{}", arguments.peer_port),
        };
        Ok(Member {
            host: Some(host.clone()),
            public: arguments.public.unwrap_or(SocketAddr::new(listen, PUBLIC.port())),
            private: arguments.private.unwrap_or(PRIVATE),
            peer: SocketAddr::new(listen, arguments.peer_port),
            advertised,
        })
    };
    hosts.iter().map(member).collect()
}

fn init_cluster(dir: &Path, arguments: &Init, members: &[Member]) -> Result<String, Failure> {
    let join: Vec<String> = members.iter().map(|member| member.advertised.clone()).collect();
    let mut nodes = Vec::new();
    let mut listeners = None;
    for (number, member) in (1..).zip(members) {
        let path = dir.join(format!("node{number}"));
        refuse_existing(&path)?;
        let mut config = config(member, &join, arguments.peer_tls);
        // One certificate for all of them, since it bears the names of all.
        let made = listener_certificate(&mut config, &arguments.certificate_for)?;
        listeners = listeners.or(made);
        config.check_all()?;
        nodes.push((path, config));
    }
    let authority = if arguments.peer_tls { Some(Authority::make()?) } else { None };
    let env = System::new();
    create_private_dir(dir)?;
    if let Some(authority) = &authority {
        authority.write(dir)?;
    }
    let secret = InstanceSecret::make(&env);
    for ((path, config), member) in nodes.iter().zip(members) {
        create_private_dir(path)?;
        secret.write(path)?;
        if let Some(pair) = &listeners {
            pair.write(path, CERTIFICATE_FILE, KEY_FILE)?;
        }
        if let Some(authority) = &authority {
            authority.write_certificate(path)?;
            authority.sign(&names(member))?.write(path, PEER_CERTIFICATE_FILE, PEER_KEY_FILE)?;
        }
        write_durably(path, CONFIG_FILE, config.to_toml().as_bytes())?;
    }
    server::create_data_dir(&nodes[0].0.join(DATA_DIR), &env)?;
    Ok(instructions(dir, members, &nodes, authority.is_some()))
}

fn config(member: &Member, join: &[String], peer_tls: bool) -> Config {
    let file = |name: &str| peer_tls.then(|| PathBuf::from(name));
    let scheme_and_host = member.host.as_ref().map(|host| match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.clone(),
    });
    Config {
        data_dir: DATA_DIR.into(),
        public_address: member.public,
        private_address: member.private,
        public_url: scheme_and_host.map_or_else(String::new, |host| format!("http://{host}:{}", member.public.port())),
        peer_address: Some(member.peer),
        peer_advertise: if member.host.is_some() { member.advertised.clone() } else { String::new() },
        join: join.to_vec(),
        peer_tls_certificate: file(PEER_CERTIFICATE_FILE),
        peer_tls_key: file(PEER_KEY_FILE),
        peer_tls_ca: file(PEER_CA_FILE),
        instance_secret_file: Some(secret::SECRET_FILE.into()),
        ..Config::default()
    }
}

/// What the others call the node, without the port.
fn names(member: &Member) -> Vec<String> {
    match &member.host {
        Some(host) => vec![host.clone()],
        None => vec![member.peer.ip().to_string(), "localhost".to_owned()],
    }
}

/// Has the configuration serve HTTPS with a certificate for these names, which is made; none without names.
fn listener_certificate(config: &mut Config, names: &[String]) -> anyhow::Result<Option<Pair>> {
    if names.is_empty() {
        return Ok(None);
    }
    let (certificate, key) = (Some(PathBuf::from(CERTIFICATE_FILE)), Some(PathBuf::from(KEY_FILE)));
    (config.public_tls_certificate, config.public_tls_key) = (certificate.clone(), key.clone());
    (config.private_tls_certificate, config.private_tls_key) = (certificate, key);
    if let Some(rest) = config.public_url.strip_prefix("http://") {
        config.public_url = format!("https://{rest}");
    }
    Pair::self_signed(names).map(Some)
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    ensure!(!path.exists(), "{} exists already; nothing was changed", path.display());
    Ok(())
}

fn instructions(dir: &Path, members: &[Member], nodes: &[(PathBuf, Config)], has_authority: bool) -> String {
    let shown = dir.display();
    let mut said = format!("Wrote {} configurations below {shown}.", nodes.len());
    let are_remote = members.iter().any(|member| member.host.is_some());
    if are_remote {
        said += " Move each directory to its machine, and start the nodes there,\nin any order:\n\n";
    } else {
        said += " Start the nodes, in any order:\n\n";
    }
    for ((path, _), member) in nodes.iter().zip(members) {
        let config = path.join(CONFIG_FILE);
        match (&member.host, path.file_name()) {
            (Some(host), Some(name)) => {
                let name = name.display();
                said += &format!("  {host}:  insid run --config {name}/{CONFIG_FILE}\n");
            }
            _ => said += &format!("  insid run --config {}\n", config.display()),
        }
    }
    said += "\nnode1 founds the cluster at its first start, once. Move its directory, do not copy it: a second copy is one\n\
             permission too many.\n";
    if has_authority {
        said +=
            &format!("{shown}/{PEER_CA_KEY_FILE} signs certificates for further nodes: keep it away from the nodes.\n");
    }
    said
}
