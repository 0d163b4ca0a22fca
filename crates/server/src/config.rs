//! Settings: flags over environment over file over defaults.
//!
//! 1. [`Config::default`] holds every default; `config/insid.toml` shows them all, and a test holds it equal.
//! 2. [`mod@file`] lays a TOML file over it, [`Config::lay_environment`] the `INSIDB_…` variables, [`Config::lay_flags`]
//!    the command line. Each setting has one name in all three.
//! 3. [`Config::check`] looks at the whole. Every error names the setting and the place where it was set.

use std::{fmt, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use state::bounds;

pub(crate) mod file;
mod setting;

use setting::Setting;
pub(crate) use setting::{LogFormat, OnFollowerWrite, Raw};

macro_rules! settings {
    ($($(#[doc = $doc:expr])* $name:ident: $type:ty = $default:expr;)*) => {
        /// All settings of a node.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct Config { $($(#[doc = $doc])* pub(crate) $name: $type,)* }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Config {
            /// Every setting's name.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// Sets one setting; none when there is no such setting.
            fn set(&mut self, name: &str, raw: &Raw<'_>) -> Option<Result<(), String>> {
                match name {
                    $(stringify!($name) => Some(setting::parse(raw).map(|value| self.$name = value)),)*
                    _ => None,
                }
            }

            /// The settings as a TOML file, each below its description.
            pub(crate) fn to_toml(&self) -> String {
                let mut toml = String::new();
                $(
                    $(toml += &format!("#{}\n", $doc);)*
                    toml += &format!("{} = {}\n\n", stringify!($name), self.$name.to_toml());
                )*
                toml.truncate(toml.trim_end().len());
                toml + "\n"
            }
        }
    };
}

settings! {
    /// Where the node keeps everything. Locked against a second process.
    data_dir: PathBuf = "insidb-data".into();
    /// Where tenants' requests are taken. Port 0 picks a free one.
    public_address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080));
    /// Where operators' requests and monitors are taken.
    private_address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8081));
    /// PEM files of the public listener's certificate chain and key. Both empty: plain HTTP.
    public_tls_certificate: Option<PathBuf> = None;
    /// See public_tls_certificate.
    public_tls_key: Option<PathBuf> = None;
    /// PEM files of the private listener's certificate chain and key. Both empty: plain HTTP.
    private_tls_certificate: Option<PathBuf> = None;
    /// See private_tls_certificate.
    private_tls_key: Option<PathBuf> = None;
    /// File that holds the instance secret, from which the root key is derived. The environment variable
    /// INSIDB_INSTANCE_SECRET wins over it.
    instance_secret_file: Option<PathBuf> = None;

    /// Where the other nodes of the cluster are taken. Empty: a single node, which takes none.
    peer_address: Option<SocketAddr> = None;
    /// What the other nodes call that address, as host:port. Empty: peer_address itself.
    peer_advertise: String = String::new();
    /// Peer addresses of the cluster that this node belongs to or joins, as in ["node1:8082", "node2:8082"]. With an
    /// empty list a node without a data directory founds a cluster of its own; otherwise it never does, unless `insid
    /// init` gave its directory the permission to, once.
    join: Vec<String> = Vec::new();
    /// PEM files of this node's certificate and key among the nodes, and of the authority that signed all of theirs. All
    /// empty: plain connections, for a network that is yours alone.
    peer_tls_certificate: Option<PathBuf> = None;
    /// See peer_tls_certificate.
    peer_tls_key: Option<PathBuf> = None;
    /// See peer_tls_certificate.
    peer_tls_ca: Option<PathBuf> = None;
    /// What a node that does not lead does with a write: forward passes it on, redirect answers 307 with the leader's URL.
    on_follower_write: OnFollowerWrite = OnFollowerWrite::Forward;
    /// Where clients reach this node: scheme, host and port. What the others redirect to. Empty: made from
    /// public_address.
    public_url: String = String::new();
    /// How long the cache may be without a leader that has a majority before it is given up and begins anew, empty.
    cache_reset_after_ms: u64 = 3_000;

    /// Most bytes of a key, and of a value: up to 16777216. The same on every node.
    max_value_size: usize = bounds::VALUE_BYTES_MAX_DEFAULT;
    /// Most bytes of keys and values in the Cache. Past it the cache takes no new data (503 memory_full).
    cache_bytes_max: u64 = 1 << 30;
    /// Most bytes of the Value Store that are in memory and not yet in the store file. Past it writes slow down.
    values_dirty_bytes_max: u64 = 256 << 20;
    /// Bytes of the store file that are cached in memory.
    values_page_cache_bytes: usize = 256 << 20;
    /// A checkpoint of the Value Store begins this long after the last one at the latest.
    checkpoint_interval_ms: u64 = 60_000;
    /// A checkpoint begins when it has this many bytes to write. After a crash, about half as many more may have to be applied.
    checkpoint_bytes: u64 = 48 << 20;
    /// Least bytes of one segment of the log; more where what is written together needs it: 4.3 MiB, or
    /// 12 times max_value_size. One more is always filled ahead.
    log_segment_bytes: u64 = 16 << 20;
    /// Bytes of the log that are kept behind a checkpoint in a cluster: a node that was away while no more was written
    /// catches up from them; past it, it takes a copy of the whole store.
    log_tail_bytes: u64 = consensus::log::disk::TAIL_BYTES_DEFAULT;

    /// Most requests in flight, on each of the two listeners. Past it they are answered 503. No API key holds more of
    /// them than it leaves free, nor of the two bounds on bytes below.
    requests_in_flight_max: usize = 4_096;
    /// Most bytes of request bodies in flight. Past it they are answered 503.
    body_bytes_in_flight_max: usize = 256 << 20;
    /// Most bytes of answers that their clients have not taken yet. Past it what has a long answer is answered 503.
    answer_bytes_in_flight_max: usize = 256 << 20;
    /// Most connections on each listener. Past it they are answered 503 and closed.
    connections_max: usize = 8_192;
    /// Most pages of keys being read at a time. Others wait for their turn, for a second at most.
    scans_max: usize = 64;

    /// A request's head must arrive within this time from its first byte.
    header_timeout_ms: u64 = 10_000;
    /// A connection without a request is closed after this time.
    idle_timeout_ms: u64 = 75_000;
    /// A request's body must not pause for longer than this.
    body_stall_timeout_ms: u64 = 10_000;
    /// A request's body must arrive within this time.
    body_timeout_ms: u64 = 60_000;
    /// The store must have answered within this time, counted from the request's last byte.
    request_timeout_ms: u64 = 10_000;
    /// A client that takes nothing of its answer for this long is cut off.
    write_timeout_ms: u64 = 30_000;
    /// A TLS handshake must be done within this time.
    tls_handshake_timeout_ms: u64 = 10_000;
    /// What is in flight at a shutdown has this long to finish.
    shutdown_timeout_ms: u64 = 10_000;

    /// Requests per second and client address to the Value Store's data; 0 is no limit.
    address_rate_values: u32 = 0;
    /// Requests per second and client address to the Cache's data; 0 is no limit.
    address_rate_cache: u32 = 0;
    /// Requests per second and client address to all other routes; 0 is no limit.
    address_rate_system: u32 = 0;
    /// Networks whose addresses may use this node, as in ["10.0.0.0/8", "127.0.0.1/32"]. Empty: all.
    permitted_ips: Vec<IpNet> = Vec::new();
    /// Networks of proxies whose X-Forwarded-For is believed.
    trusted_proxies: Vec<IpNet> = Vec::new();

    /// What is logged: error, warn, info, debug, trace, or directives as RUST_LOG has them, which wins over it.
    log_level: String = "info".to_owned();
    /// How: text for people, json for machines, auto for text on a terminal and json elsewhere.
    log_format: LogFormat = LogFormat::Auto;
}

/// What is wrong with a setting, and where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// `insid.toml:3`, `INSIDB_DATA_DIR`, `--data-dir`; empty when it is the settings together.
    pub(crate) place: String,
    /// What is wrong, in a line.
    pub(crate) message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.place, self.message) }
    }
}

impl std::error::Error for ConfigError {}

/// The environment, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// The process's own variables that are meant for this program; one that is not text is left out.
    pub(crate) fn of_process() -> Self {
        let texts = std::env::vars_os()
            .filter_map(|(variable, value)| Some((variable.into_string().ok()?, value.into_string().ok()?)));
        Self(texts.filter(|(variable, _)| variable.starts_with(ENVIRONMENT_PREFIX) || variable == RUST_LOG).collect())
    }

    /// A variable's value.
    pub(crate) fn get(&self, variable: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == variable).map(|(_, value)| value.as_str())
    }
}

/// The variable that wins over `log_level`.
const RUST_LOG: &str = "RUST_LOG";

/// What every setting's environment variable begins with.
pub(crate) const ENVIRONMENT_PREFIX: &str = "INSIDB_";

impl Config {
    /// Sets one setting by its name.
    fn lay(&mut self, name: &str, raw: &Raw<'_>, place: impl FnOnce() -> String) -> Result<(), ConfigError> {
        match self.set(name, raw) {
            Some(Ok(())) => Ok(()),
            Some(Err(expected)) => Err(ConfigError { place: place(), message: format!("`{name}` must be {expected}") }),
            None => Err(ConfigError { place: place(), message: unknown(name) }),
        }
    }

    /// Lays environment variables over the settings. Variables of other names are other programs' matter, unless they
    /// are a slip of the pen away from a setting's.
    pub(crate) fn lay_environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        for (variable, value) in &environment.0 {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX).map(str::to_lowercase) else { continue };
            let known = Self::NAMES.contains(&name.as_str());
            let slipped = || Self::NAMES.iter().any(|known| strsim::osa_distance(known, &name) <= 2);
            if known || slipped() {
                self.lay(&name, &Raw::Text(value), || variable.clone())?;
            }
        }
        if let Some(directives) = environment.get(RUST_LOG) {
            directives.clone_into(&mut self.log_level);
        }
        Ok(())
    }

    /// Lays flags, as names and values, over the settings.
    pub(crate) fn lay_flags(&mut self, flags: &[(&str, &str, Option<String>)]) -> Result<(), ConfigError> {
        for (flag, name, value) in flags {
            if let Some(value) = value {
                self.lay(name, &Raw::Text(value), || (*flag).to_owned())?;
            }
        }
        Ok(())
    }

    /// Looks at the ranges and at what must fit together.
    ///
    /// # Errors
    /// The first thing that is wrong; which of the places set it is not known any more.
    pub(crate) fn check_all(&self) -> Result<(), ConfigError> {
        self.check()
            .map_err(|(name, fault)| ConfigError { place: String::new(), message: format!("`{name}`: {fault}") })
    }

    /// Looks at the ranges and at what must fit together; answers the name of a setting that is at fault, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let mib = 1 << 20;
        self.check_range("max_value_size", self.max_value_size as u64, 1, bounds::VALUE_BYTES_MAX_LIMIT as u64)?;
        self.check_range("cache_bytes_max", self.cache_bytes_max, mib, u64::MAX)?;
        self.check_range("values_dirty_bytes_max", self.values_dirty_bytes_max, mib, u64::MAX)?;
        self.check_range("values_page_cache_bytes", self.values_page_cache_bytes as u64, mib, u64::MAX)?;
        self.check_range("checkpoint_interval_ms", self.checkpoint_interval_ms, 100, 86_400_000)?;
        self.check_range("checkpoint_bytes", self.checkpoint_bytes, 1 << 16, self.values_dirty_bytes_max)?;
        self.check_range("log_segment_bytes", self.log_segment_bytes, mib, 1 << 30)?;
        self.check_range("log_tail_bytes", self.log_tail_bytes, 0, 1 << 40)?;
        self.check_range("requests_in_flight_max", self.requests_in_flight_max as u64, 1, 1_000_000)?;
        let body_bytes_max = crate::http::body::BodyBounds::bytes_max(self.max_value_size) as u64;
        let in_flight = self.body_bytes_in_flight_max as u64;
        self.check_range("body_bytes_in_flight_max", in_flight, body_bytes_max, u64::MAX)?;
        let answer_bytes_max = crate::http::body::BodyBounds::answer_bytes_max(self.max_value_size) as u64;
        let in_flight = self.answer_bytes_in_flight_max as u64;
        self.check_range("answer_bytes_in_flight_max", in_flight, answer_bytes_max, u64::MAX)?;
        self.check_range("connections_max", self.connections_max as u64, 1, 1_000_000)?;
        self.check_range("scans_max", self.scans_max as u64, 1, 256)?;
        for (name, value) in [
            ("header_timeout_ms", self.header_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("body_stall_timeout_ms", self.body_stall_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
            ("tls_handshake_timeout_ms", self.tls_handshake_timeout_ms),
            ("shutdown_timeout_ms", self.shutdown_timeout_ms),
        ] {
            self.check_range(name, value, 10, 3_600_000)?;
        }
        for (name, certificate, key) in [
            ("public_tls_certificate", &self.public_tls_certificate, &self.public_tls_key),
            ("private_tls_certificate", &self.private_tls_certificate, &self.private_tls_key),
        ] {
            if certificate.is_some() != key.is_some() {
                return Err((name, "the certificate and its key go together: give both or none".to_owned()));
            }
        }
        self.check_range("cache_reset_after_ms", self.cache_reset_after_ms, 1_000, 600_000)?;
        if self.peer_address.is_none() && !self.join.is_empty() {
            return Err(("join", "a node that joins others needs a `peer_address` of its own".to_owned()));
        }
        let peer_tls = [&self.peer_tls_certificate, &self.peer_tls_key, &self.peer_tls_ca];
        if peer_tls.iter().any(|path| path.is_some()) && !peer_tls.iter().all(|path| path.is_some()) {
            let fault = "certificate, key and authority of the peers go together: give all three or none";
            return Err(("peer_tls_certificate", fault.to_owned()));
        }
        if self.public_address == self.private_address && self.public_address.port() != 0 {
            return Err(("private_address", "it must differ from `public_address`".to_owned()));
        }
        if let Some(peer) = self.peer_address {
            let taken = [self.public_address, self.private_address].contains(&peer) && peer.port() != 0;
            if taken {
                return Err(("peer_address", "it must differ from `public_address` and `private_address`".to_owned()));
            }
            if peer.ip().is_unspecified() && self.peer_advertise.is_empty() {
                let fault =
                    "the other nodes cannot reach this node there: name in `peer_advertise` the address that they use";
                return Err(("peer_address", fault.to_owned()));
            }
        }
        crate::telemetry::parse_filter(&self.log_level).map(drop).map_err(|error| ("log_level", error))
    }

    fn check_range(&self, name: &'static str, value: u64, min: u64, max: u64) -> Result<(), (&'static str, String)> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        let range = if max == u64::MAX { format!("at least {min}") } else { format!("{min} to {max}") };
        Err((name, format!("it must be {range}, and is {value}")))
    }
}

fn unknown(name: &str) -> String {
    let nearest = Config::NAMES.iter().min_by_key(|known| strsim::osa_distance(known, name));
    match nearest {
        Some(nearest) => format!("there is no setting `{name}`; the nearest is `{nearest}`"),
        None => format!("there is no setting `{name}`"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    const SHIPPED: &str = include_str!("../../../config/insid.toml");

    #[test]
    fn the_shipped_file_shows_every_default() {
        let head = SHIPPED.split_inclusive("\n\n").next().unwrap();
        let expected = format!("{head}{}", Config::default().to_toml());
        assert_eq!(SHIPPED, expected, "config/insid.toml is not what Config::default() says");
        assert_eq!(file::parse(SHIPPED, "insid.toml", "".as_ref()).unwrap(), Config::default());
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let mut config =
            file::parse("scans_max = 2\nlog_level = \"warn\"\nconnections_max = 3\n", "f", "".as_ref()).unwrap();
        let variables = [("INSIDB_SCANS_MAX", "4"), ("INSIDB_CONNECTIONS_MAX", "5"), ("PATH", "x")];
        config.lay_environment(&environment(&variables)).unwrap();
        config.lay_flags(&[("--scans", "scans_max", Some("6".to_owned())), ("--data-dir", "data_dir", None)]).unwrap();
        assert_eq!((config.scans_max, config.connections_max, config.log_level.as_str()), (6, 5, "warn"));
        assert_eq!(config.data_dir, Config::default().data_dir);
    }

    #[test]
    fn a_variable_that_is_nearly_a_setting_is_an_error() {
        let mut config = Config::default();
        let error = config.lay_environment(&environment(&[("INSIDB_SCAN_MAX", "4")])).unwrap_err();
        assert_eq!(error.to_string(), "INSIDB_SCAN_MAX: there is no setting `scan_max`; the nearest is `scans_max`");
        config.lay_environment(&environment(&[("INSIDB_URL", "x"), ("INSIDB_INSTANCE_SECRET", "y")])).unwrap();
    }

    #[test]
    fn lists_and_addresses_come_from_text_too() {
        let mut config = Config::default();
        let variables = [("INSIDB_PERMITTED_IPS", "10.0.0.0/8, ::1"), ("INSIDB_PUBLIC_ADDRESS", "[::]:1")];
        config.lay_environment(&environment(&variables)).unwrap();
        assert_eq!(config.permitted_ips, ["10.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()]);
        assert_eq!(config.public_address, "[::]:1".parse().unwrap());
    }

    #[test]
    fn a_peer_address_is_one_that_the_others_can_use() {
        let check = |peer: &str, advertised: &str| {
            let config = Config {
                peer_address: Some(peer.parse().unwrap()),
                peer_advertise: advertised.to_owned(),
                ..Config::default()
            };
            config.check().map_err(|(name, _)| name)
        };
        assert_eq!(check("127.0.0.1:8082", ""), Ok(()));
        assert_eq!(check("0.0.0.0:8082", "db1:8082"), Ok(()));
        assert_eq!(check("0.0.0.0:8082", ""), Err("peer_address"));
        let taken = Config::default().private_address.to_string();
        assert_eq!(check(&taken, ""), Err("peer_address"));
    }
}
