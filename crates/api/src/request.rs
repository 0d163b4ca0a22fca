//! Request bodies. Unknown fields are ignored; a known one that is missing, null or of another type is refused.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A body, or a part of one, that must be a JSON object: serde by itself takes a struct's fields from an array too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for FromMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(FromMap(PhantomData))
    }
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|object| object.0)
}

/// For `deserialize_with`: an optional field that is there must hold a value: null is refused, where serde by itself takes it as absent.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

body! {
    /// set, setnx.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    }
}
body! {
    /// cas.
    CompareAndSwap {
        /// The key.
        key: String,
        /// What it must hold.
        old_value: String,
        /// What it shall hold.
        new_value: String,
    }
}
body! {
    /// delete, and get by body.
    KeyOnly {
        /// The key.
        key: String,
    }
}
body! {
    /// bump.
    Bump {
        /// The key.
        key: String,
        /// What to add: an integer as text.
        value: String,
    }
}
body! {
    /// Names an alias by its text or by its public id.
    Alias {
        /// The alias.
        alias: String,
    }
}

/// iterate by body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iterate {
    /// What the keys begin with.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many keys to skip.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The most keys to answer: 1..=1000.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Start behind this key.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Makes an API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateKey {
    /// Its name.
    pub key_name: String,
    /// When it stops being valid, as RFC 3339.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Names an API key by its text or by its public id: exactly one of the two. The names that routes use for the
/// text differ and are all taken here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichKey {
    /// The key's text.
    #[serde(
        default,
        deserialize_with = "present",
        alias = "api_key",
        alias = "root_api_key",
        skip_serializing_if = "Option::is_none"
    )]
    pub key: Option<String>,
    /// The key's public id.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub key_uuid: Option<String>,
}

/// New limits; what is absent stays. Signed, so that a negative number can be refused by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsPatch {
    /// Quota in the Value Store, in bytes.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub bytes_on_disk: Option<i64>,
    /// Quota in the Cache, in bytes.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub bytes_in_memory: Option<i64>,
    /// Data operations per second.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub rate_per_second_data_limit: Option<i64>,
}

/// Changes a key's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLimits {
    /// The key's text.
    #[serde(default, deserialize_with = "present", alias = "key", skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The key's public id.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub key_uuid: Option<String>,
    /// The new limits.
    #[serde(deserialize_with = "object")]
    pub limits: LimitsPatch,
}

/// A page of all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entities {
    /// How many to skip.
    #[serde(default)]
    pub offset: u64,
    /// The most to answer: 1..=1000.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// `POST /admin/cluster/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAdd {
    /// The node's peer address, as `host:port`.
    pub address: String,
}

/// `POST /admin/cluster/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRemove {
    /// The node's id, as `/admin/cluster/status` shows it.
    pub node: String,
}

/// `POST /admin/cluster/transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTransfer {
    /// The node that shall lead; without it, the voter that has come furthest.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub node: Option<String>,
}
