//! `insid run`: a node from a configuration file.

use std::path::Path;

use consensus::env::System;

use crate::{
    cli::Run,
    commands::Failure,
    config::{Config, Environment, file},
    node::data_dir::DataDir,
    secret::{self, InstanceSecret},
    server::{self, Start},
};

/// Runs until a signal ends it.
pub(crate) fn run(arguments: &Run, environment: &Environment) -> Result<(), Failure> {
    let flags = [
        ("--data-dir", "data_dir", arguments.data_dir.clone()),
        ("--public", "public_address", arguments.public.clone()),
        ("--private", "private_address", arguments.private.clone()),
        ("--log-level", "log_level", arguments.log_level.clone()),
    ];
    let config = effective(&arguments.config, environment, &flags)?;
    let secret = instance_secret(&config, &arguments.config, environment)?;
    // A node that has others to join founds nothing: it asks them which cluster theirs is.
    if !DataDir::exists(&config.data_dir) && config.join.is_empty() {
        server::create_data_dir(&config.data_dir, &System::new())?;
    }
    let until_stdin_ends = arguments.until_stdin_ends;
    server::run(Start { config, secret, announce: None, until_stdin_ends })?;
    Ok(())
}

/// The settings of a file with the environment and the flags over it.
pub(crate) fn effective(
    path: &Path,
    environment: &Environment,
    flags: &[(&str, &str, Option<String>)],
) -> Result<Config, Failure> {
    let mut config = file::read(path)?;
    config.lay_environment(environment)?;
    config.lay_flags(flags)?;
    config.check_all()?;
    Ok(config)
}

/// The instance secret of the node that `path` configures.
pub(crate) fn instance_secret(
    config: &Config,
    path: &Path,
    environment: &Environment,
) -> Result<InstanceSecret, Failure> {
    match (environment.get(secret::VARIABLE), &config.instance_secret_file) {
        (Some(text), _) => Ok(InstanceSecret::new(text)?),
        (None, Some(path)) => Ok(InstanceSecret::read(path)?),
        (None, None) => Err(Failure::Usage(format!(
            "there is no instance secret: set `instance_secret_file` in {}, or {}",
            path.display(),
            secret::VARIABLE
        ))),
    }
}
