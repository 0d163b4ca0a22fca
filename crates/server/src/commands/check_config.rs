//! `insid check-config`: what is wrong with a file and with what it names, or what it brings.

use std::{io::Write, path::PathBuf};

use anyhow::Context;

use crate::{
    cli::CheckConfig,
    commands::{Failure, run::effective},
    config::{Config, Environment},
    listen::tls,
    secret::{self, InstanceSecret},
    server::peer_tls,
};

/// Prints the settings in effect, the environment's included; a secret only as being there.
pub(crate) fn check_config(arguments: &CheckConfig, environment: &Environment) -> Result<(), Failure> {
    let config = effective(&arguments.file, environment, &[])?;
    read_files(&config, environment)
        .map_err(|error| Failure::Usage(format!("{}: {error:#}", arguments.file.display())))?;
    let mut shown = config.to_toml();
    if environment.get(secret::VARIABLE).is_some() {
        shown += &format!("\n# {} is set: ********\n", secret::VARIABLE);
    }
    std::io::stdout().write_all(shown.as_bytes()).context("cannot write to standard output")?;
    Ok(())
}

/// Reads what the settings name, as a start would.
fn read_files(config: &Config, environment: &Environment) -> anyhow::Result<()> {
    if let (None, Some(path)) = (environment.get(secret::VARIABLE), &config.instance_secret_file) {
        InstanceSecret::read(path)?;
    }
    let listener = |setting: &str, certificate: &Option<PathBuf>, key: &Option<PathBuf>| match (certificate, key) {
        (Some(certificate), Some(key)) => {
            tls::acceptor(certificate, key).map(drop).with_context(|| format!("`{setting}`"))
        }
        _ => Ok(()),
    };
    listener("public_tls_certificate", &config.public_tls_certificate, &config.public_tls_key)?;
    listener("private_tls_certificate", &config.private_tls_certificate, &config.private_tls_key)?;
    peer_tls(config).map(drop).context("`peer_tls_certificate`")
}
