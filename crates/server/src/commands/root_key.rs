//! `insid root-key`: what an operator's requests carry.

use std::io::Write;

use anyhow::Context;

use crate::{
    cli::RootKey,
    commands::{
        Failure,
        run::{effective, instance_secret},
    },
    config::Environment,
};

/// Prints the root key, and nothing else, on standard output.
pub(crate) fn root_key(arguments: &RootKey, environment: &Environment) -> Result<(), Failure> {
    let config = effective(&arguments.config, environment, &[])?;
    let key = instance_secret(&config, &arguments.config, environment)?.root_key();
    std::io::stdout().write_all(format!("{key}\n").as_bytes()).context("cannot write to standard output")?;
    Ok(())
}
