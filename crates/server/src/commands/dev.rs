//! `insid dev`: one node, or a small cluster, with nothing to set up.

use std::path::Path;

use anyhow::{Context, anyhow};
use consensus::env::System;

use crate::{
    cli::Dev,
    commands::{Failure, dev_cluster, plan},
    config::{Config, Environment},
    node::data_dir::{DataDir, create_private_dir, write_durably},
    secret::{self, InstanceSecret},
    server::{self, Addresses, Start},
};

/// Runs until a signal ends it.
pub(crate) fn dev(arguments: &Dev, environment: &Environment) -> Result<(), Failure> {
    match arguments.nodes {
        1 => one_node(arguments, environment),
        count => dev_cluster::run(count, arguments, environment),
    }
}

fn one_node(arguments: &Dev, environment: &Environment) -> Result<(), Failure> {
    let mut config = Config::default();
    config.lay_environment(environment)?;
    config.data_dir.clone_from(&arguments.data_dir);
    config.public_address = arguments.public;
    config.private_address = arguments.private;
    config.check_all()?;

    let env = System::new();
    let dir = &config.data_dir;
    if plan::config_file(dir, 1).exists() {
        let shown = dir.display();
        return Err(anyhow!("{shown} holds a cluster: start it with --nodes, or take another --data-dir").into());
    }
    if !DataDir::exists(dir) {
        server::create_data_dir(dir, &env)?;
    }
    create_private_dir(dir)?;
    let secret = match environment.get(secret::VARIABLE) {
        Some(text) => InstanceSecret::new(text)?,
        None => InstanceSecret::read_or_make(dir, &env)?,
    };
    let key_path = leave_root_key(dir, &secret)?;
    let announce = move |addresses: &Addresses| announcement(addresses, &key_path);
    server::run(Start { config, secret, announce: Some(Box::new(announce)), until_stdin_ends: false })?;
    Ok(())
}

/// Writes the root key into the directory, and answers where it lies.
pub(super) fn leave_root_key(dir: &Path, secret: &InstanceSecret) -> anyhow::Result<String> {
    write_durably(dir, secret::ROOT_KEY_FILE, secret.root_key().as_bytes())?;
    let key_path = dir.join(secret::ROOT_KEY_FILE);
    let key_path = std::path::absolute(&key_path).with_context(|| format!("cannot find {}", key_path.display()))?;
    Ok(key_path.to_string_lossy().into_owned())
}

/// The header that carries the root key, as a shell takes it.
pub(super) fn authorization(key_path: &str) -> String {
    format!("\"Authorization: Bearer $(cat {})\"", quoted(key_path))
}

/// What a newcomer needs, with two lines to paste.
fn announcement(addresses: &Addresses, key_path: &str) -> String {
    let Addresses { public, private, .. } = addresses;
    let key = authorization(key_path);
    let url = format!("http://{public}{}{}", api::path::BASE, api::path::VS);
    format!(
        "InsiDB is ready.

  public listener   http://{public}
  private listener  http://{private}
  root key          {key_path}

Try it:

  curl -H {key} -d '{{\"key\":\"greeting\",\"value\":\"hello\"}}' {url}
  curl -H {key} '{url}?key=greeting'

"
    )
}

/// A path as a shell takes it inside `$(…)`.
pub(super) fn quoted(path: &str) -> String {
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted("/tmp/a-b/root.key"), "/tmp/a-b/root.key");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }
}
