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
    refuse_left_behind(&config.data_dir, &arguments.config)?;
    // A node that has others to join founds nothing: it asks them which cluster theirs is.
    if !DataDir::exists(&config.data_dir) && config.join.is_empty() {
        server::create_data_dir(&config.data_dir, &System::new())?;
    }
    server::run(Start { config, secret, announce: None, stops_with_stdin: arguments.stop_with_stdin })?;
    Ok(())
}

/// Relative paths of a file once counted from the working directory: a node that would begin anew, empty, while its data
/// lies there is refused.
fn refuse_left_behind(data_dir: &Path, config: &Path) -> Result<(), Failure> {
    let Ok(relative) = data_dir.strip_prefix(file::directory(config)) else { return Ok(()) };
    if DataDir::exists(data_dir) || !DataDir::exists(relative) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "`data_dir` of {} counts from that file's directory and would be {}, but there is a data directory at {} below \
         the working directory: write its absolute path into the file, or remove it",
        config.display(),
        data_dir.display(),
        relative.display()
    )))
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
