//! The nodes that are asked, and how a connection to one comes about.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use insidb_client::ConfigError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::failure::Failure;

/// The longest that a connection may take to come about, as with the other commands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One node's public listener.
pub(crate) struct Target {
    /// Scheme, host and port, for messages.
    pub(crate) node: String,
    /// The `Host` header.
    pub(crate) host: String,
    /// What its paths begin with; empty as a rule.
    pub(crate) base: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// Finds the node's addresses. `ca_pem` holds the certificates to trust in place of the platform's.
    ///
    /// # Errors
    /// When the URL or the certificates cannot be used, or the name is unknown.
    pub(crate) async fn find(url: &str, ca_pem: Option<&[u8]>) -> Result<Self, Failure> {
        let refused = || Failure::from(ConfigError::Url("it is not one; http://127.0.0.1:8080 would be"));
        let url = Url::parse(url.trim()).map_err(|_| refused())?;
        let (host, port) = url.host().zip(url.port_or_known_default()).ok_or_else(refused)?;
        let node = url.origin().ascii_serialization();
        let unreachable = |error: io::Error| unreachable(&node, &error);
        let addresses = match &host {
            Host::Domain(name) => tokio::net::lookup_host((*name, port)).await.map_err(unreachable)?.collect(),
            Host::Ipv4(address) => vec![SocketAddr::from((*address, port))],
            Host::Ipv6(address) => vec![SocketAddr::from((*address, port))],
        };
        let tls = match url.scheme() {
            "https" => Some((TlsConnector::from(Arc::new(tls_config(ca_pem)?)), server_name(&host)?)),
            _ => None,
        };
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let base = url.path().trim_end_matches('/').to_owned();
        Ok(Self { node, host: authority, base, addresses, tls })
    }

    /// A connection, with its TLS handshake done.
    ///
    /// # Errors
    /// When none comes about in three seconds.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let opened = async {
            let stream = TcpStream::connect(self.addresses.as_slice()).await?;
            // A request is one write: waiting for more of it would only delay it.
            stream.set_nodelay(true)?;
            Ok(match &self.tls {
                Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?) as Box<dyn Stream>,
                None => Box::new(stream),
            })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 3 s")),
        }
    }

    /// The usual failure, of a connection that did not come about.
    pub(crate) fn unreachable(&self, error: &io::Error) -> Failure {
        unreachable(&self.node, error)
    }
}

fn unreachable(node: &str, error: &io::Error) -> Failure {
    insidb_client::Error::Unreachable { node: node.to_owned(), reason: error.to_string() }.into()
}

fn server_name(host: &Host<&str>) -> Result<ServerName<'static>, Failure> {
    match host {
        Host::Domain(name) => ServerName::try_from((*name).to_owned())
            .map_err(|_| ConfigError::Url("its host is no name that a certificate can have").into()),
        Host::Ipv4(address) => Ok(ServerName::from(std::net::IpAddr::V4(*address))),
        Host::Ipv6(address) => Ok(ServerName::from(std::net::IpAddr::V6(*address))),
    }
}

/// Trusts what the other commands trust: see the SDK's builder.
fn tls_config(ca_pem: Option<&[u8]>) -> Result<ClientConfig, ConfigError> {
    let start = |error: rustls::Error| ConfigError::Start(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(start)?;
    let Some(pem) = ca_pem else {
        return Ok(builder.with_platform_verifier().map_err(start)?.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| ConfigError::CaCertificate(error.to_string()))?;
        roots.add(certificate).map_err(|error| ConfigError::CaCertificate(error.to_string()))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
