//! `insid dev`: one node, nothing to set up; with `--nodes`, several of them (`dev_cluster`).

use anyhow::Context;
use consensus::env::System;

use super::{
    Failure, dev_cluster,
    init::{PRIVATE, PUBLIC},
};
use crate::{
    cli::Dev,
    config::{Config, Environment},
    node::data_dir::{DataDir, create_private_dir, write_durably},
    secret::{self, InstanceSecret},
    server::{self, Addresses, Start},
};

/// Runs until a signal ends it.
pub(crate) fn dev(arguments: &Dev, environment: &Environment) -> Result<(), Failure> {
    let mut config = Config::default();
    config.lay_environment(environment)?;
    config.lay_flags(&[("--log-level", "log_level", arguments.log_level.clone())])?;
    config.data_dir.clone_from(&arguments.data_dir);
    config.public_address = arguments.public.unwrap_or(PUBLIC);
    config.private_address = arguments.private.unwrap_or(PRIVATE);
    config.check_all()?;
    if arguments.nodes > 1 {
        return dev_cluster::run(arguments, environment);
    }
    let dir = &config.data_dir;
    dev_cluster::refuse_cluster(dir)?;

    let env = System::new();
    if !DataDir::exists(dir) {
        server::create_data_dir(dir, &env)?;
    }
    create_private_dir(dir)?;
    let secret = match environment.get(secret::VARIABLE) {
        Some(text) => InstanceSecret::new(text)?,
        None => InstanceSecret::read_or_make(dir, &env)?,
    };
    let root_key = secret.root_key();
    write_durably(dir, secret::ROOT_KEY_FILE, root_key.as_bytes())?;
    let key_path = dir.join(secret::ROOT_KEY_FILE);
    let key_path = std::path::absolute(&key_path).with_context(|| format!("cannot find {}", key_path.display()))?;
    let announce = move |addresses: &Addresses| announcement(addresses, &key_path.to_string_lossy());
    server::run(Start { config, secret, announce: Some(Box::new(announce)), stops_with_stdin: false })?;
    Ok(())
}

/// What a newcomer needs, with two lines to paste.
fn announcement(addresses: &Addresses, key_path: &str) -> String {
    let Addresses { public, private, .. } = addresses;
    let key = format!("\"Authorization: Bearer $(cat {})\"", quoted(key_path));
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
pub(crate) fn quoted(path: &str) -> String {
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
