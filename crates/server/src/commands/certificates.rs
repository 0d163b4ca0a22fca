//! Certificates that `insid init` makes.

use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::node::data_dir::write_durably;

/// A listener's certificate.
pub(crate) const CERTIFICATE_FILE: &str = "tls.crt";
/// Its key.
pub(crate) const KEY_FILE: &str = "tls.key";
/// A node's certificate among the nodes.
pub(crate) const PEER_CERTIFICATE_FILE: &str = "peer.crt";
/// Its key.
pub(crate) const PEER_KEY_FILE: &str = "peer.key";
/// The authority that signs those of all nodes.
pub(crate) const PEER_CA_FILE: &str = "peer-ca.crt";
/// Its key, which no node needs.
pub(crate) const PEER_CA_KEY_FILE: &str = "peer-ca.key";

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    /// A certificate for these names and addresses that signs itself.
    pub(crate) fn self_signed(names: &[String]) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(names).context("cannot make the certificate")?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Writes both, the key for this user alone.
    pub(crate) fn write(&self, dir: &Path, certificate: &str, key: &str) -> anyhow::Result<()> {
        write_durably(dir, certificate, self.certificate.as_bytes())?;
        write_durably(dir, key, self.key.as_bytes())
    }
}

/// A cluster's own authority: whoever has a certificate of its may be a node, with the cluster's token.
pub(crate) struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, with a key of its own.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make the key of the nodes' authority")?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "InsiDB cluster authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = ca.self_signed(&key).context("cannot make the nodes' authority")?.pem();
        let pair = Pair { certificate, key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(ca, key) })
    }

    /// A node's certificate for the names and addresses that the others call it by: each node calls and is called.
    pub(crate) fn sign(&self, names: &[String]) -> anyhow::Result<Pair> {
        let made = || {
            let key = KeyPair::generate()?;
            let mut node = CertificateParams::new(names)?;
            node.distinguished_name = DistinguishedName::new();
            node.distinguished_name.push(DnType::CommonName, "InsiDB node");
            node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = node.signed_by(&key, &self.issuer)?.pem();
            Ok::<_, rcgen::Error>(Pair { certificate, key: key.serialize_pem() })
        };
        made().with_context(|| format!("cannot make a node's certificate for {}", names.join(", ")))
    }

    /// Writes the authority's certificate, which every node needs.
    pub(crate) fn write_certificate(&self, dir: &Path) -> anyhow::Result<()> {
        write_durably(dir, PEER_CA_FILE, self.pair.certificate.as_bytes())
    }

    /// Writes certificate and key, to sign for further nodes.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        self.pair.write(dir, PEER_CA_FILE, PEER_CA_KEY_FILE)
    }
}
