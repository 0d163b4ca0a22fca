//! `insid check-config`: what is wrong with a file, or what it brings.

use std::io::Write;

use anyhow::Context;

use crate::{
    cli::CheckConfig,
    commands::{Failure, run::effective},
    config::Environment,
    secret,
};

/// Prints the settings in effect, the environment's included; a secret only as being there.
pub(crate) fn check_config(arguments: &CheckConfig, environment: &Environment) -> Result<(), Failure> {
    let config = effective(&arguments.file, environment, &[])?;
    let mut shown = config.to_toml();
    if environment.get(secret::VARIABLE).is_some() {
        shown += &format!("\n# {} is set: ********\n", secret::VARIABLE);
    }
    std::io::stdout().write_all(shown.as_bytes()).context("cannot write to standard output")?;
    Ok(())
}
