//! TLS by rustls with ring, whose build needs a C compiler and nothing else.

use std::sync::Arc;

use reqwest::Url;
use rustls::client::{ClientConfig, WantsClientCert};
use rustls::{ConfigBuilder, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;

use crate::error::ConfigError;

/// Trusts the certificates in `ca_pem` and no others, or what the platform trusts when there is none. The platform's
/// certificates are read only when some URL needs them.
pub(crate) fn config(ca_pem: Option<&[u8]>, urls: &[Url]) -> Result<ClientConfig, ConfigError> {
    let start = |error: rustls::Error| ConfigError::Start(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(start)?;
    let trusting: ConfigBuilder<ClientConfig, WantsClientCert> = match ca_pem {
        Some(pem) => builder.with_root_certificates(private_roots(pem)?),
        None if urls.iter().any(|url| url.scheme() == "https") => builder.with_platform_verifier().map_err(start)?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    Ok(trusting.with_no_client_auth())
}

fn private_roots(pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| ConfigError::CaCertificate(error.to_string()))?;
        roots.add(certificate).map_err(|error| ConfigError::CaCertificate(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(ConfigError::CaCertificate("there is no certificate in it; PEM is expected".to_owned()));
    }
    Ok(roots)
}
