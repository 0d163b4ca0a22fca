//! The nodes of a new cluster: what each of them is configured as, and the files that make it ready to run.
//!
//! ```text
//! DIR/node1.toml …        a configuration for each node
//! DIR/node1/              the first node's data directory, with the marker that lets it found the cluster, once; the others
//!                         make theirs when the cluster has taken them in
//! DIR/instance_secret     the secret that all of them share
//! DIR/tls.crt, tls.key    the listeners' certificate, if asked for
//! DIR/peer-ca.crt, .key   the authority for certificates among the nodes, if asked for, and what it has signed:
//! DIR/node1.peer.crt, .key …
//! ```
//!
//! Every node is told to join all of them, the first one too: without its data directory it is a new node, and never founds
//! a second cluster.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use consensus::env::Env;

use crate::{
    config::Config,
    node::data_dir::{create_private_dir, write_durably},
    secret::{self, InstanceSecret},
    server,
};

const CERTIFICATE_FILE: &str = "tls.crt";
const CERTIFICATE_KEY_FILE: &str = "tls.key";
const PEER_CA_FILE: &str = "peer-ca.crt";
const PEER_CA_KEY_FILE: &str = "peer-ca.key";

/// Ports that are picked lie below those that a system gives to outgoing connections, so that a node that is down for a
/// while finds its own free.
const PICKED_PORT_MIN: u16 = 10_000;
const PICKED_PORTS: u64 = 20_000;
const PICKS_MAX: u32 = 1_000;

/// Where one node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// What others call its machine; none for the addresses themselves.
    pub(crate) host: Option<String>,
}

impl Place {
    /// What the other nodes call it.
    fn peer_name(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}:{}", self.peer.port()),
            None => self.peer.to_string(),
        }
    }
}

/// `count` nodes on this machine, with addresses one after another from those of the first; the peers' behind them.
/// Port 0 picks free ones.
pub(crate) fn on_this_machine(
    count: u16,
    public: SocketAddr,
    private: SocketAddr,
    env: &dyn Env,
) -> anyhow::Result<Vec<Place>> {
    let mut taken = Vec::new();
    let last = public.port().max(private.port());
    (0..count)
        .map(|n| {
            let mut next = |base: SocketAddr, offset: u16| match base.port() {
                0 => pick(base.ip(), &mut taken, env),
                port => {
                    let port = port.checked_add(offset).context("the ports of all nodes do not fit below 65536")?;
                    Ok(SocketAddr::new(base.ip(), port))
                }
            };
            Ok(Place {
                public: next(public, 2 * n)?,
                private: next(private, 2 * n)?,
                peer: next(SocketAddr::new(public.ip(), last), 2 * (count - 1) + 1 + n)?,
                host: None,
            })
        })
        .collect()
}

/// A node on each of these machines, with the same ports everywhere; the peers' port is the one behind.
pub(crate) fn on_machines(hosts: &[String], public: SocketAddr, private: SocketAddr) -> anyhow::Result<Vec<Place>> {
    let peer_port = public.port().max(private.port()).checked_add(1).context("there is no port behind 65535")?;
    ensure!(public.port() != 0 && private.port() != 0, "nodes on machines of their own need ports that are not 0");
    let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), peer_port);
    Ok(hosts.iter().map(|host| Place { public, private, peer, host: Some(host.clone()) }).collect())
}

fn pick(ip: IpAddr, taken: &mut Vec<u16>, env: &dyn Env) -> anyhow::Result<SocketAddr> {
    for _ in 0..PICKS_MAX {
        let offset = u16::try_from(env.random_u64() % PICKED_PORTS).expect("it is below 20,000");
        let address = SocketAddr::new(ip, PICKED_PORT_MIN + offset);
        if !taken.contains(&address.port()) && TcpListener::bind(address).is_ok() {
            taken.push(address.port());
            return Ok(address);
        }
    }
    bail!("no free port was found on {ip}")
}

/// What to make.
pub(crate) struct Plan<'a> {
    /// Where; absolute.
    pub(crate) dir: &'a Path,
    pub(crate) places: &'a [Place],
    /// Names that the listeners' certificate is for; none for plain HTTP.
    pub(crate) certificate_for: &'a [String],
    /// Whether the nodes speak mutual TLS among themselves.
    pub(crate) peer_tls: bool,
    /// Whether the secret is made and kept in a file; else it comes from the environment.
    pub(crate) makes_secret: bool,
}

/// The configuration file of the `number`th node, from 1.
pub(crate) fn config_file(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node{number}.toml"))
}

impl Plan<'_> {
    /// Makes everything; answers the configuration files. Changes nothing where there is a configuration already.
    pub(crate) fn write(&self, env: &dyn Env) -> anyhow::Result<Vec<PathBuf>> {
        let files: Vec<PathBuf> = (1..=self.places.len()).map(|number| config_file(self.dir, number)).collect();
        if let Some(there) = files.iter().find(|file| file.exists()) {
            bail!("{} exists already; nothing was changed", there.display());
        }
        let configs: Vec<Config> = (1..=self.places.len()).map(|number| self.config(number)).collect();
        for config in &configs {
            config.check_all()?;
        }
        create_private_dir(self.dir)?;
        if self.makes_secret {
            InstanceSecret::read_or_make(self.dir, env)?;
        }
        if !self.certificate_for.is_empty() {
            write_certificate(self.dir, self.certificate_for)?;
        }
        if self.peer_tls {
            self.write_peer_certificates()?;
        }
        server::create_data_dir(&configs[0].data_dir, env)?;
        for (file, config) in files.iter().zip(&configs) {
            let name = file.file_name().expect("it was made of a name").to_string_lossy();
            write_durably(self.dir, &name, config.to_toml().as_bytes())?;
        }
        Ok(files)
    }

    fn config(&self, number: usize) -> Config {
        let Place { public, private, peer, host } = &self.places[number - 1];
        let file = |name: String| Some(self.dir.join(name));
        let scheme = if self.certificate_for.is_empty() { "http" } else { "https" };
        let mut config = Config {
            data_dir: self.dir.join(format!("node{number}")),
            public_address: *public,
            private_address: *private,
            peer_address: Some(*peer),
            join: self.places.iter().map(Place::peer_name).collect(),
            ..Config::default()
        };
        if self.makes_secret {
            config.instance_secret_file = file(secret::SECRET_FILE.to_owned());
        }
        if let Some(host) = host {
            config.peer_advertise = self.places[number - 1].peer_name();
            config.public_url = format!("{scheme}://{host}:{}", public.port());
        }
        if !self.certificate_for.is_empty() {
            serve_https(&mut config, self.dir);
        }
        if self.peer_tls {
            config.peer_tls_certificate = file(format!("node{number}.peer.crt"));
            config.peer_tls_key = file(format!("node{number}.peer.key"));
            config.peer_tls_ca = file(PEER_CA_FILE.to_owned());
        }
        config
    }

    /// An authority of the cluster's own, and what it signs for each node.
    fn write_peer_certificates(&self) -> anyhow::Result<()> {
        let made = || -> Result<Vec<(String, String)>, rcgen::Error> {
            let key = rcgen::KeyPair::generate()?;
            let mut authority = rcgen::CertificateParams::new(Vec::new())?;
            authority.distinguished_name.push(rcgen::DnType::CommonName, "InsiDB nodes");
            authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let mut files = vec![
                (PEER_CA_FILE.to_owned(), authority.self_signed(&key)?.pem()),
                (PEER_CA_KEY_FILE.to_owned(), key.serialize_pem()),
            ];
            let issuer = rcgen::Issuer::new(authority, key);
            for (n, place) in self.places.iter().enumerate() {
                let name = place.host.clone().unwrap_or_else(|| place.peer.ip().to_string());
                let key = rcgen::KeyPair::generate()?;
                let certificate = rcgen::CertificateParams::new(vec![name])?.signed_by(&key, &issuer)?;
                files.push((format!("node{}.peer.crt", n + 1), certificate.pem()));
                files.push((format!("node{}.peer.key", n + 1), key.serialize_pem()));
            }
            Ok(files)
        };
        for (name, content) in made().context("cannot make the nodes' certificates")? {
            write_durably(self.dir, &name, content.as_bytes())?;
        }
        Ok(())
    }
}

/// A self-signed certificate for these names.
pub(crate) fn write_certificate(dir: &Path, names: &[String]) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(names).context("cannot make the certificate")?;
    write_durably(dir, CERTIFICATE_FILE, made.cert.pem().as_bytes())?;
    write_durably(dir, CERTIFICATE_KEY_FILE, made.signing_key.serialize_pem().as_bytes())
}

/// Has both listeners serve HTTPS with the certificate in `dir`.
pub(crate) fn serve_https(config: &mut Config, dir: &Path) {
    let (certificate, key) = (Some(dir.join(CERTIFICATE_FILE)), Some(dir.join(CERTIFICATE_KEY_FILE)));
    (config.public_tls_certificate, config.public_tls_key) = (certificate.clone(), key.clone());
    (config.private_tls_certificate, config.private_tls_key) = (certificate, key);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::env::System;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_follow_one_another() {
        let places = on_this_machine(3, address("127.0.0.1:8080"), address("127.0.0.1:8081"), &System::new()).unwrap();
        let shown: Vec<String> =
            places.iter().map(|place| format!("{} {} {}", place.public, place.private, place.peer)).collect();
        assert_eq!(
            shown,
            [
                "127.0.0.1:8080 127.0.0.1:8081 127.0.0.1:8086",
                "127.0.0.1:8082 127.0.0.1:8083 127.0.0.1:8087",
                "127.0.0.1:8084 127.0.0.1:8085 127.0.0.1:8088",
            ]
        );
        let too_high = on_this_machine(3, address("127.0.0.1:65530"), address("127.0.0.1:65531"), &System::new());
        assert!(too_high.is_err());
    }

    #[test]
    fn picked_ports_differ() {
        let free = address("127.0.0.1:0");
        let places = on_this_machine(7, free, free, &System::new()).unwrap();
        let ports: std::collections::BTreeSet<u16> =
            places.iter().flat_map(|place| [place.public.port(), place.private.port(), place.peer.port()]).collect();
        assert_eq!(ports.len(), 21);
    }

    #[test]
    fn a_plan_changes_nothing_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let free = address("127.0.0.1:0");
        let places = on_this_machine(3, free, free, &System::new()).unwrap();
        let plan = Plan { dir: dir.path(), places: &places, certificate_for: &[], peer_tls: true, makes_secret: true };
        let files = plan.write(&System::new()).unwrap();
        assert_eq!(files.len(), 3);
        let before = std::fs::read(&files[0]).unwrap();
        let refusal = plan.write(&System::new()).unwrap_err().to_string();
        assert!(refusal.contains("node1.toml exists already; nothing was changed"), "{refusal}");
        assert_eq!(std::fs::read(&files[0]).unwrap(), before);
        for secret in ["instance_secret", "peer-ca.key", "node2.peer.key"] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(dir.path().join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
    }
}
