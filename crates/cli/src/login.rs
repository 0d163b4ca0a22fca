//! `insic login`: saves URL and key as a profile.
//!
//! 1. The URL is the one given, or the one that the profile already has.
//! 2. The key is the one given, or is asked for without showing it.
//! 3. Both are tried with a ping, so that a typing error is met now; then the profile is saved.

use clap::Args;
use insidb_client::ConfigError;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::input::Stdin;
use crate::profile::{Profile, Profiles};
use crate::session::Session;
use crate::settings;

#[derive(Args)]
pub(crate) struct Command {
    /// Save without trying whether the service takes the key
    #[arg(long)]
    no_check: bool,
}

/// What was saved, as `--json` prints it.
#[derive(Serialize)]
struct Saved<'a> {
    profile: &'a str,
    path: &'a std::path::Path,
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let name = session.settings.profile_name().to_owned();
    let mut profiles = Profiles::load()?;
    let given = session.settings.given();
    let key = given.key.clone();
    let mut profile = given.or(profiles.remove(&name).unwrap_or_default());
    if profile.url.is_empty() {
        return Err(ConfigError::NoUrl.into());
    }
    if let Some(ca) = profile.ca.take() {
        profile.ca = Some(std::path::absolute(&ca).unwrap_or(ca));
    }
    let key = obtain_key(key, &mut session.stdin)?;
    profile.key = Some(key.clone());
    check(&profile, key, command.no_check).await?;

    profiles.insert(&name, profile);
    let path = profiles.save()?;
    if session.out.json {
        session.out.json(&Saved { profile: &name, path: &path })?;
    } else {
        session.out.remark(&format!("Saved as profile `{name}` in {}", path.display()))?;
    }
    Ok(Exit::Done)
}

fn obtain_key(given: Option<String>, stdin: &mut Stdin) -> Result<String, Failure> {
    if let Some(key) = given {
        return stdin.secret(key);
    }
    let typed = rpassword::prompt_password("API key: ").map_err(|error| {
        Failure::usage(format!("there is no terminal to ask for the API key: {error}"), "pipe it in: `--key -`")
    })?;
    stdin.secret(typed)
}

/// Settings that no client can be made of are refused either way.
async fn check(profile: &Profile, key: String, is_skipped: bool) -> Result<(), Failure> {
    let client = settings::builder(profile)?.key(key).build()?;
    if !is_skipped {
        client.ping().await?;
    }
    Ok(())
}
