//! The types that settings have, and how each reads and writes itself.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use toml::de::DeValue;

/// A setting's value as it was given.
pub(crate) enum Raw<'a> {
    /// In the environment or on the command line.
    Text(&'a str),
    /// In a file, which lies in this directory.
    Toml(&'a DeValue<'a>, &'a Path),
}

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// What it takes, for people: reads behind "must be".
    const EXPECTED: &'static str;

    /// From text.
    fn from_text(text: &str) -> Option<Self>;

    /// From a file: from a TOML string, where a type does not say otherwise.
    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    /// The same as a file in `directory` means it: a relative path counts from there.
    fn within(self, _directory: &Path) -> Self {
        self
    }

    /// As a TOML value.
    fn to_toml(&self) -> String;
}

/// Reads a value, or says what was expected.
pub(crate) fn parse<T: Setting>(raw: &Raw<'_>) -> Result<T, String> {
    let value = match raw {
        Raw::Text(text) => T::from_text(text.trim()),
        Raw::Toml(value, directory) => T::from_toml(value).map(|value| value.within(directory)),
    };
    value.ok_or_else(|| T::EXPECTED.to_owned())
}

/// A TOML string. Debug's escapes of a Rust string are TOML's for what paths and levels are made of.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl Setting for $type {
            const EXPECTED: &'static str = "a whole number, 0 or more";

            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn from_toml(value: &DeValue<'_>) -> Option<Self> {
                let integer = value.as_integer()?;
                Self::from_str_radix(integer.as_str(), integer.radix()).ok()
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers!(u32 u64 usize);

impl Setting for String {
    const EXPECTED: &'static str = "text";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn within(self, directory: &Path) -> Self {
        if directory.as_os_str().is_empty() {
            return self;
        }
        let path = directory.join(self);
        // Takes a `.` out. It fails where there is no working directory, which an absolute path does not need.
        std::path::absolute(&path).unwrap_or(path)
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Option<PathBuf> {
    const EXPECTED: &'static str = "a path, or empty";

    fn from_text(text: &str) -> Option<Self> {
        Some((!text.is_empty()).then(|| text.into()))
    }

    fn within(self, directory: &Path) -> Self {
        self.map(|path| path.within(directory))
    }

    fn to_toml(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), Setting::to_toml)
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address with a port, as in \"127.0.0.1:8080\"";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Option<SocketAddr> {
    const EXPECTED: &'static str = "an address with a port, as in \"10.0.0.1:8082\", or empty";

    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn to_toml(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), Setting::to_toml)
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of texts, as in [\"node1:8082\", \"node2:8082\"]";

    fn from_text(text: &str) -> Option<Self> {
        Some(items(text).map(str::to_owned).collect())
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
    }

    fn to_toml(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

/// The items of a list that is given as text, with commas; as the file has it is taken too.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let items = inner.unwrap_or(text).split(',').map(|item| item.trim().trim_matches('"'));
    items.filter(|item| !item.is_empty())
}

impl Setting for Vec<IpNet> {
    const EXPECTED: &'static str = "a list of networks, as in [\"10.0.0.0/8\"]";

    fn from_text(text: &str) -> Option<Self> {
        items(text).map(network).collect()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| item.get_ref().as_str().and_then(network)).collect()
    }

    fn to_toml(&self) -> String {
        let networks: Vec<_> = self.iter().map(|network| quoted(&network.to_string())).collect();
        format!("[{}]", networks.join(", "))
    }
}

/// A network, or a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What a node that does not lead does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFollowerWrite {
    /// It passes it on to the leader.
    Forward,
    /// It answers 307 with the leader's URL.
    Redirect,
}

impl Setting for OnFollowerWrite {
    const EXPECTED: &'static str = "\"forward\" or \"redirect\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "forward" => Some(Self::Forward),
            "redirect" => Some(Self::Redirect),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        quoted(match self {
            Self::Forward => "forward",
            Self::Redirect => "redirect",
        })
    }
}

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people on a terminal, for machines elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "\"auto\", \"text\" or \"json\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        quoted(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
