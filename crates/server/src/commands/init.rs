//! `insid init`: a configuration file, a secret and, if asked, a certificate, ready to run.

use std::{io::Write, path::Path};

use anyhow::{Context, ensure};
use consensus::env::System;

use crate::{
    cli::Init,
    commands::Failure,
    config::Config,
    node::data_dir::write_durably,
    secret::{self, InstanceSecret},
    server,
};

const CONFIG_FILE: &str = "insid.toml";
const CERTIFICATE_FILE: &str = "tls.crt";
const CERTIFICATE_KEY_FILE: &str = "tls.key";

/// Makes the directory and everything in it; changes nothing when it is a data directory already.
pub(crate) fn init(arguments: &Init) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.data_dir).context("cannot find the data directory")?;
    let config_path = dir.join(CONFIG_FILE);
    let mut config = Config {
        data_dir: dir.clone(),
        public_address: arguments.public,
        private_address: arguments.private,
        instance_secret_file: Some(dir.join(secret::SECRET_FILE)),
        ..Config::default()
    };
    let names = &arguments.certificate_for;
    if !names.is_empty() {
        let (certificate, key) = (Some(dir.join(CERTIFICATE_FILE)), Some(dir.join(CERTIFICATE_KEY_FILE)));
        (config.public_tls_certificate, config.public_tls_key) = (certificate.clone(), key.clone());
        (config.private_tls_certificate, config.private_tls_key) = (certificate, key);
    }
    config.check_all()?;
    write_all(&dir, &config, names)?;
    let shown = config_path.display();
    let said = format!("Wrote {shown}. Start the node with:\n\n  insid run --config {shown}\n");
    std::io::stdout().write_all(said.as_bytes()).context("cannot write to standard output")?;
    Ok(())
}

fn write_all(dir: &Path, config: &Config, names: &[String]) -> anyhow::Result<()> {
    let env = System::new();
    let config_path = dir.join(CONFIG_FILE);
    ensure!(!config_path.exists(), "{} exists already; nothing was changed", config_path.display());
    server::create_data_dir(dir, &env)?;
    InstanceSecret::read_or_make(dir, &env)?;
    if !names.is_empty() {
        let made = rcgen::generate_simple_self_signed(names).context("cannot make the certificate")?;
        write_durably(dir, CERTIFICATE_FILE, made.cert.pem().as_bytes())?;
        write_durably(dir, CERTIFICATE_KEY_FILE, made.signing_key.serialize_pem().as_bytes())?;
    }
    write_durably(dir, CONFIG_FILE, config.to_toml().as_bytes())
}
