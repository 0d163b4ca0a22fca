//! The client, and what any key may ask about itself.

use std::sync::Arc;

use api::{path, request, response};
use reqwest::Method;
use serde::de::DeserializeOwned;

use crate::admin::Admin;
use crate::answer::Answer;
use crate::builder::Builder;
use crate::call::{Call, Effect, Listener};
use crate::error::Error;
use crate::store::{Cache, Store, Values};
use crate::transport::{Success, Transport};

/// A client of one service. Cloning shares its connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
}

impl Client {
    /// Starts setting a client up.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport: Arc::new(transport) }
    }

    /// The durable store.
    #[must_use]
    pub fn values(&self) -> Store<Values> {
        Store::new(self.clone())
    }

    /// The in-memory store.
    #[must_use]
    pub fn cache(&self) -> Store<Cache> {
        Store::new(self.clone())
    }

    /// What operators do. Needs the root key, and the URL of a private listener.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Who the caller is, and who answers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<response::Ping, Error> {
        self.read_json(&Call::new(Listener::Public, Effect::Read, Method::GET, path::PING)).await
    }

    /// The caller's usage and limits.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn limits(&self) -> Result<response::Limits, Error> {
        self.read_json(&Call::new(Listener::Public, Effect::Read, Method::GET, path::LIMITS)).await
    }

    /// Makes an alias: a key of its own with the caller's scope, limits and rate. Its text is answered this once.
    ///
    /// # Errors
    /// `too_many_aliases` past 16, `alias_cannot_create` for an alias; see [`Error`].
    pub async fn create_alias(&self) -> Result<String, Error> {
        let call = Call::new(Listener::Public, Effect::Write, Method::POST, path::ALIAS_SET);
        Ok(self.read_json::<response::Alias>(&call).await?.alias)
    }

    /// Ends an alias, named by its text or its public id.
    ///
    /// # Errors
    /// `api_key_not_found` when there is none, `forbidden` when it is another's; see [`Error`].
    pub async fn delete_alias(&self, alias: impl Into<String>) -> Result<(), Error> {
        let call = Call::new(Listener::Public, Effect::Write, Method::POST, path::ALIAS_DELETE);
        self.send(&call.json(&request::Alias { alias: alias.into() })).await.map(drop)
    }

    /// The public ids of the caller's aliases.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn aliases(&self) -> Result<Vec<String>, Error> {
        let call = Call::new(Listener::Public, Effect::Read, Method::GET, path::ALIAS_LIST);
        Ok(self.read_json::<response::Aliases>(&call).await?.aliases)
    }

    pub(crate) async fn send(&self, call: &Call) -> Result<Success, Error> {
        self.transport.send(call).await
    }

    /// Sends, and takes the body as JSON.
    pub(crate) async fn answer<T: DeserializeOwned>(&self, call: &Call) -> Result<Answer<T>, Error> {
        let success = self.send(call).await?;
        match serde_json::from_slice(&success.body) {
            Ok(value) => Ok(Answer::new(value, &success.headers)),
            Err(_) => Err(unreadable(call.effect, success)),
        }
    }

    pub(crate) async fn read_json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        Ok(self.answer(call).await?.value)
    }
}

/// A success whose body is not of the contract. For a write that means that nobody knows what was done.
pub(crate) fn unreadable(effect: Effect, success: Success) -> Error {
    let Success { node, status, .. } = success;
    let reason = "but its body is not InsiDB's";
    match effect {
        Effect::Read => Error::UnexpectedAnswer { node, status, reason },
        Effect::Write => Error::OutcomeUnknown { node, reason: format!("answered {status}, {reason}"), refusal: None },
    }
}
