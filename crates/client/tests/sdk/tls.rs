//! TLS, with a private certificate and without.

use crate::scripted::{Reply, Server};
use crate::scripted_tls;
use insidb_client::{Client, Error};

#[tokio::test]
async fn a_private_ca_is_trusted_when_it_is_given() {
    let (server, pem) = scripted_tls::start([Reply::json(200, r#"{"data":"v"}"#)]);
    let client = Client::builder().url(server.url()).ca_certificate(pem).build().unwrap();
    assert_eq!(client.values().get("k").await.unwrap().value.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_private_ca_is_not_trusted_otherwise() {
    let (server, _) = scripted_tls::start([Reply::json(200, r#"{"data":"v"}"#)]);
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    let client = Client::builder().url(server.url()).ca_certificate(other).tries_max(1).build().unwrap();
    let error = client.values().set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_key_never_goes_from_tls_to_plain_text() {
    let plain = Server::start([Reply::json(200, "{}")]);
    let (server, pem) = scripted_tls::start([Reply::json(307, "").with("location", plain.url())]);
    let client = Client::builder().url(server.url()).key("insi_k").ca_certificate(pem).build().unwrap();
    let error = client.values().set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedAnswer { status: 307, .. }), "{error}");
    assert!(plain.requests().is_empty());
}
