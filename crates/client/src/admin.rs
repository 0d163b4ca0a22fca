//! What operators do, on the private listener, with the root key.

use api::{path, request, response};
use reqwest::Method;

use crate::call::{Call, Effect, Listener};
use crate::client::Client;
use crate::error::Error;

/// The operators' routes.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// Names an API key.
#[derive(Clone, PartialEq, Eq)]
pub enum ApiKey {
    /// By its public id.
    Uuid(String),
    /// By its text, which is secret.
    Text(String),
}

impl ApiKey {
    fn parts(self) -> (Option<String>, Option<String>) {
        match self {
            Self::Text(text) => (Some(text), None),
            Self::Uuid(uuid) => (None, Some(uuid)),
        }
    }

    fn which(self) -> request::WhichKey {
        let (key, key_uuid) = self.parts();
        request::WhichKey { key, key_uuid }
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Every node of the cluster, in both groups.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<response::Cluster, Error> {
        let call = Call::new(Listener::Private, Effect::Read, Method::GET, path::CLUSTER_STATUS);
        self.client.read_json(&call).await
    }

    /// Takes the node that listens at this peer address into the cluster: as a learner, and as a voter when it has caught
    /// up.
    ///
    /// # Errors
    /// `cluster_change_refused`; see [`Error`].
    pub async fn add_node(&self, address: impl Into<String>) -> Result<(), Error> {
        let body = request::ClusterAdd { address: address.into() };
        self.client.send(&call(Effect::Write, path::CLUSTER_ADD).json(&body)).await.map(drop)
    }

    /// Removes a node for good, alive or not.
    ///
    /// # Errors
    /// `cluster_change_refused`; see [`Error`].
    pub async fn remove_node(&self, node: impl Into<String>) -> Result<(), Error> {
        let body = request::ClusterRemove { node: node.into() };
        self.client.send(&call(Effect::Write, path::CLUSTER_REMOVE).json(&body)).await.map(drop)
    }

    /// Hands the leadership of the Value Store's group to a node, or to the voter that has come furthest.
    ///
    /// # Errors
    /// `cluster_change_refused`; see [`Error`].
    pub async fn transfer_leadership(&self, node: Option<String>) -> Result<(), Error> {
        let body = request::ClusterTransfer { node };
        self.client.send(&call(Effect::Write, path::CLUSTER_TRANSFER).json(&body)).await.map(drop)
    }

    /// Makes an API key with a scope of its own and the default limits. Its text is answered this once.
    ///
    /// # Errors
    /// `invalid_parameter` when `expires_at` is no RFC 3339 time; see [`Error`].
    pub async fn create_key(
        &self,
        name: impl Into<String>,
        expires_at: Option<String>,
    ) -> Result<response::CreatedKey, Error> {
        let body = request::CreateKey { key_name: name.into(), expires_at };
        self.client.read_json(&call(Effect::Write, path::ADMIN_CREATE).json(&body)).await
    }

    /// Deletes an API key, its aliases and its data. It is dead on every node when this returns.
    ///
    /// # Errors
    /// `api_key_not_found`; see [`Error`].
    pub async fn delete_key(&self, key: ApiKey) -> Result<(), Error> {
        self.client.send(&call(Effect::Write, path::ADMIN_DELETE).json(&key.which())).await.map(drop)
    }

    /// Changes an API key's limits; what `limits` leaves out stays.
    ///
    /// # Errors
    /// `invalid_parameter` for a negative limit, `api_key_not_found`; see [`Error`].
    pub async fn set_limits(&self, key: ApiKey, limits: request::LimitsPatch) -> Result<(), Error> {
        let (api_key, key_uuid) = key.parts();
        let body = request::SetLimits { api_key, key_uuid, limits };
        self.client.send(&call(Effect::Write, path::ADMIN_LIMITS_SET).json(&body)).await.map(drop)
    }

    /// An API key's usage and limits.
    ///
    /// # Errors
    /// `api_key_not_found`; see [`Error`].
    pub async fn limits(&self, key: ApiKey) -> Result<response::Limits, Error> {
        self.client.read_json(&call(Effect::Read, path::ADMIN_LIMITS_GET).json(&key.which())).await
    }

    /// One API key, whole.
    ///
    /// # Errors
    /// `api_key_not_found`; see [`Error`].
    pub async fn entity(&self, key: ApiKey) -> Result<response::Entity, Error> {
        let call = call(Effect::Read, path::ADMIN_ENTITY).json(&key.which());
        Ok(self.client.read_json::<response::OneEntity>(&call).await?.entity)
    }

    /// The API key behind an alias, named by its text or its public id.
    ///
    /// # Errors
    /// `api_key_not_found`; see [`Error`].
    pub async fn entity_by_alias(&self, alias: impl Into<String>) -> Result<response::Entity, Error> {
        let call = call(Effect::Read, path::ADMIN_ENTITY_BY_ALIAS).json(&request::Alias { alias: alias.into() });
        Ok(self.client.read_json::<response::OneEntity>(&call).await?.entity)
    }

    /// A page of all API keys: `limit` is 1..=1000, 100 when absent.
    ///
    /// # Errors
    /// `invalid_parameter` for another limit; see [`Error`].
    pub async fn entities(&self, offset: u64, limit: Option<u64>) -> Result<Vec<response::Entity>, Error> {
        let call = call(Effect::Read, path::ADMIN_ENTITIES).json(&request::Entities { offset, limit });
        Ok(self.client.read_json::<response::Entities>(&call).await?.entities)
    }

    /// Whether the node can serve a linearizable read. Needs no key. Asks one node, once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn is_ready(&self) -> Result<bool, Error> {
        let call = Call::new(Listener::Private, Effect::Read, Method::GET, path::READYZ).probe();
        match self.client.send(&call).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(refusal)) if refusal.status == 503 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a node's process answers at all. Needs no key. Asks one node, once.
    ///
    /// # Errors
    /// See [`Error`]: [`Error::Unreachable`] is the usual one.
    pub async fn live(&self) -> Result<(), Error> {
        let call = Call::new(Listener::Private, Effect::Read, Method::GET, path::LIVEZ).probe();
        self.client.send(&call).await.map(drop)
    }

    /// The node's metrics, in Prometheus's text format. Needs no key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let call = Call::new(Listener::Private, Effect::Read, Method::GET, path::METRICS);
        let success = self.client.send(&call).await?;
        match String::from_utf8(success.body) {
            Ok(text) => Ok(text),
            Err(_) => {
                Err(Error::UnexpectedAnswer { node: success.node, status: success.status, reason: "but not in UTF-8" })
            }
        }
    }

    /// The answering node's operations per second.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ops(&self) -> Result<response::Ops, Error> {
        self.client.read_json(&Call::new(Listener::Private, Effect::Read, Method::GET, path::ADMIN_OPS)).await
    }
}

/// Every route here but one takes its question in a body, which reads do by POST too.
fn call(effect: Effect, route: &str) -> Call {
    Call::new(Listener::Private, effect, Method::POST, route)
}
