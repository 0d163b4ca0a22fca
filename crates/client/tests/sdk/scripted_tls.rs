//! The same over TLS, with a certificate of its own.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::scripted::{Reply, Server};

/// A server for `localhost`, and the certificate to trust, as PEM.
pub(crate) fn start(replies: impl IntoIterator<Item = Reply>) -> (Server, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start_with("https", replies, move |stream| {
        Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream))
    });
    (server, made.cert.pem())
}
