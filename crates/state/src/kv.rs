//! Keys and values: parsed once at the edge into types that are their own proof.

use serde::{Deserialize, Serialize};

/// A tenant's key: not empty, within the bound that was in force when it was parsed. Bytes inside; text only at
/// the HTTP edge. Its `Debug` shows its length alone, so that no log can hold it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(#[serde(with = "serde_bytes")] Vec<u8>);

/// A stored value: any bytes within the bound, the empty string included. Its `Debug` shows its length alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value(#[serde(with = "serde_bytes")] Vec<u8>);

/// Why bytes are no key, value or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A key must have at least one byte.
    #[error("Key is empty")]
    EmptyKey,
    /// The key is over the bound.
    #[error("Key is too large")]
    KeyTooLarge,
    /// The value is over the bound.
    #[error("Value is too large")]
    ValueTooLarge,
}

impl Key {
    /// A key of `1..=bytes_max` bytes.
    pub fn new(bytes: impl Into<Vec<u8>>, bytes_max: usize) -> Result<Self, Invalid> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(Invalid::EmptyKey),
            len if len > bytes_max => Err(Invalid::KeyTooLarge),
            _ => Ok(Self(bytes)),
        }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Value {
    /// A value of at most `bytes_max` bytes.
    pub fn new(bytes: impl Into<Vec<u8>>, bytes_max: usize) -> Result<Self, Invalid> {
        let bytes = bytes.into();
        if bytes.len() > bytes_max { Err(Invalid::ValueTooLarge) } else { Ok(Self(bytes)) }
    }

    /// The value's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

/// One page of iterate: which keys, from where, how many. Holding one proves it valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    prefix: Vec<u8>,
    start: PageStart,
    limit: u32,
}

/// Where a page begins among the keys of its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageStart {
    /// Behind this many keys; costs as much as reading them.
    Offset(u64),
    /// Behind this key, whether it exists or not; costs the same at any depth.
    After(Vec<u8>),
}

impl Page {
    /// A page of `1..=`[`PAGE_KEYS_MAX`](crate::bounds::PAGE_KEYS_MAX) keys; none when `limit` is outside of that.
    /// An empty prefix means all keys of the scope: whether the caller may ask that is the caller's rule.
    pub fn new(prefix: impl Into<Vec<u8>>, start: PageStart, limit: u32) -> Option<Self> {
        (1..=crate::bounds::PAGE_KEYS_MAX).contains(&limit).then(|| Self { prefix: prefix.into(), start, limit })
    }

    /// What the keys begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Where the page begins.
    pub fn start(&self) -> &PageStart {
        &self.start
    }

    /// The most keys it holds.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}
