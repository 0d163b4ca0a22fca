//! The instance secret and the root key that is derived from it.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use consensus::env::Env;
use sha2::{Digest, Sha256};

use crate::{env::random_bytes, node::data_dir::write_durably, peer::head::Token};

/// The variable that holds the instance secret.
pub(crate) const VARIABLE: &str = "INSIDB_INSTANCE_SECRET";
/// The file in the data directory in which a made secret lies.
pub(crate) const SECRET_FILE: &str = "instance_secret";
/// The file in the data directory in which `insid dev` leaves the root key.
pub(crate) const ROOT_KEY_FILE: &str = "root.key";

const SECRET_RANDOM_BYTES: usize = 32;

/// What the root key is derived from. Its `Debug` shows nothing.
pub(crate) struct InstanceSecret(String);

impl std::fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InstanceSecret(..)")
    }
}

impl InstanceSecret {
    /// Takes the secret's text, without the blanks around it.
    ///
    /// # Errors
    /// When nothing is left.
    pub(crate) fn new(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        ensure!(!text.is_empty(), "the instance secret is empty");
        Ok(Self(text.to_owned()))
    }

    /// Reads the secret from its file.
    ///
    /// # Errors
    /// When the file cannot be read, or is empty.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the instance secret from {shown}"))?;
        Self::new(&text).with_context(|| format!("reading {shown}"))
    }

    /// Reads the secret from the directory, or makes one there at random.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn read_or_make(dir: &Path, env: &dyn Env) -> anyhow::Result<Self> {
        let path = dir.join(SECRET_FILE);
        if path.exists() {
            return Self::read(&path);
        }
        let secret = Self::make(env);
        secret.write(dir)?;
        Ok(secret)
    }

    /// A secret at random.
    pub(crate) fn make(env: &dyn Env) -> Self {
        let random: [u8; SECRET_RANDOM_BYTES] = random_bytes(env);
        Self(URL_SAFE_NO_PAD.encode(random))
    }

    /// Writes the secret into its file in the directory, for this user alone.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        write_durably(dir, SECRET_FILE, self.0.as_bytes())
    }

    /// The root key: base64 of the lower-case hex of SHA-256(secret), the convention of InsiDB deployments.
    pub(crate) fn root_key(&self) -> String {
        let hex: String = Sha256::digest(self.0.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        STANDARD.encode(hex)
    }

    /// What the cluster's nodes know one another by: of another label than the root key, so that neither tells the other.
    pub(crate) fn peer_token(&self) -> Token {
        Token::new(&Sha256::new().chain_update(b"insidb peer token v1\0").chain_update(self.0.as_bytes()).finalize())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_root_key_follows_the_convention() {
        // printf %s my-secret | sha256sum | cut -c1-64 | tr -d '\n' | base64 -w0
        let expected = STANDARD.encode("186ef76e9d6a723ecb570d4d9c287487d001e5d35f7ed4a313350a407950318e");
        assert_eq!(InstanceSecret::new("my-secret\n").unwrap().root_key(), expected);
        assert!(InstanceSecret::new(" \n").is_err());
    }
}
