//! Where URL and key come from.
//!
//! Each setting is taken from the first of these that has it: the flags; a profile named by `--profile`; the
//! environment; the profile `default`.

use std::path::Path;

use insidb_client::{Builder, Client, ConfigError};

use crate::args::Global;
use crate::failure::Failure;
use crate::input::Stdin;
use crate::profile::{Profile, Profiles};

/// The profile that is used when none is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// The layers above the default profile.
pub(crate) struct Settings {
    flags: Profile,
    environment: Profile,
    profile: Option<String>,
}

impl Settings {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            flags: Profile { url: global.url, admin_url: global.admin_url, key: global.api_key, ca: global.ca },
            environment: Profile {
                url: environment_list("INSIDB_URL"),
                admin_url: environment_list("INSIDB_ADMIN_URL"),
                key: environment("INSIDB_API_KEY"),
                ca: None,
            },
            profile: global.profile,
        }
    }

    /// The name under which `login` saves.
    pub(crate) fn profile_name(&self) -> &str {
        self.profile.as_deref().unwrap_or(DEFAULT_PROFILE)
    }

    /// What was given for this run alone.
    pub(crate) fn given(&self) -> Profile {
        self.flags.clone().or(self.environment.clone())
    }

    /// The client for all commands but `login`.
    pub(crate) fn client(&self, stdin: &mut Stdin) -> Result<Client, Failure> {
        let mut settings = self.in_use()?;
        if settings.url.is_empty() && settings.admin_url.is_empty() {
            return Err(ConfigError::NoUrl.into());
        }
        let key = stdin.secret(key_of(&mut settings)?)?;
        Ok(builder(&settings)?.key(key).build()?)
    }

    /// All layers as one.
    pub(crate) fn in_use(&self) -> Result<Profile, Failure> {
        let mut profiles = Profiles::load()?;
        let flags = self.flags.clone();
        let environment = self.environment.clone();
        match &self.profile {
            Some(name) => Ok(flags.or(profiles.named(name)?).or(environment)),
            None => Ok(flags.or(environment).or(profiles.remove(DEFAULT_PROFILE).unwrap_or_default())),
        }
    }
}

/// Takes the API key out, which may be `-`.
pub(crate) fn key_of(settings: &mut Profile) -> Result<String, Failure> {
    settings.key.take().ok_or_else(|| {
        Failure::usage(
            "no API key is set",
            "pass --key KEY, or `--key -` and pipe it in; set INSIDB_API_KEY; or run `insic login` once",
        )
    })
}

/// A client builder with all settings but the key.
pub(crate) fn builder(settings: &Profile) -> Result<Builder, Failure> {
    let builder = Client::builder().urls(settings.url.clone()).admin_urls(settings.admin_url.clone());
    match &settings.ca {
        Some(path) => Ok(builder.ca_certificate(read_ca(path)?)),
        None => Ok(builder),
    }
}

/// The certificates that `--ca` names.
pub(crate) fn read_ca(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read the CA certificate {}: {error}", path.display()), "check --ca")
    })
}

/// A variable that is set to nothing counts as unset, as shells make it easy to do the one for the other.
fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place where insic takes settings from its environment")]
    let variable = std::env::var(name);
    variable.ok().filter(|value| !value.is_empty())
}

fn environment_list(name: &str) -> Vec<String> {
    environment(name).map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default()
}
