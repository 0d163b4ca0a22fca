//! The file that `insic login` writes: `insidb/profiles.toml` in the user's configuration directory, readable by its
//! owner alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// How one service is reached, as far as is known.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) url: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) admin_url: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl Profile {
    /// This, with `fallback` for each setting that is missing.
    pub(crate) fn or(self, fallback: Self) -> Self {
        let first = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Self {
            url: first(self.url, fallback.url),
            admin_url: first(self.admin_url, fallback.admin_url),
            key: self.key.or(fallback.key),
            ca: self.ca.or(fallback.ca),
        }
    }
}

/// All profiles, by name.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// Reads the file; without one there are no profiles.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| malformed(&path, &text, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::usage(
                format!("cannot read the profiles in {}: {error}", path.display()),
                "make the file readable for yourself",
            )),
        }
    }

    /// Takes a profile out.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Profile> {
        self.0.remove(name)
    }

    /// Takes out a profile that was asked for.
    pub(crate) fn named(&mut self, name: &str) -> Result<Profile, Failure> {
        self.remove(name).ok_or_else(|| {
            let known = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let hint = if known.is_empty() {
                format!("none is saved yet: make it with `insic login --profile {name} --url URL`")
            } else {
                format!("there are {known}; make it with `insic login --profile {name} --url URL`")
            };
            Failure::usage(format!("there is no profile `{name}`"), hint)
        })
    }

    /// Puts a profile in, in place of one of that name.
    pub(crate) fn insert(&mut self, name: &str, profile: Profile) {
        self.0.insert(name.to_owned(), profile);
    }

    /// Writes the file whole beside the old one and swaps them, so that an interruption leaves one of the two; the
    /// new one has mode 0600 from its first byte on. Answers where it lies.
    pub(crate) fn save(&self) -> Result<PathBuf, Failure> {
        let path = path().ok_or_else(|| {
            Failure::usage("there is nowhere to save a profile", "set XDG_CONFIG_HOME or HOME to an absolute path")
        })?;
        let text = toml::to_string(self).expect("plain tables of text");
        write_private(&path, &text).map_err(|error| {
            Failure::usage(
                format!("cannot save the profile in {}: {error}", path.display()),
                "make its directory writable, or set XDG_CONFIG_HOME to another",
            )
        })?;
        Ok(path)
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().expect("the path ends in two names");
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// By the XDG base directory specification, which has relative paths ignored.
fn path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(directory.join("insidb").join("profiles.toml"))
}

/// Names the line, but shows nothing of it: a key may stand there.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let line = 1 + error.span().map_or(0, |span| text[..span.start].matches('\n').count());
    Failure::usage(
        format!("{} is no file of profiles: see line {line}", path.display()),
        "mend it, or remove it and run `insic login` again",
    )
}
