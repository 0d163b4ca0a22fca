//! HTTP: from a request to the product's verbs, and back.
//!
//! 1. [`router`] finds the path's rows.
//! 2. [`layers`] bounds, times, guards and logs the request, and walks it through the next two.
//! 3. [`address`] and [`caller`]: may this address come in, who is it, have they a token?
//! 4. [`kv`], [`keys`] and [`health`] parse with [`query`] and [`body`], call the service, and write the answer.
//! 5. [`error`] writes every answer that is not a success.
//!
//! What all of them share, and no tenant may have alone, is in [`pool`]; [`long`] keeps one from having a thread alone.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::http::Uri;
use consensus::env::Env;
use serde::de::DeserializeOwned;
use state::{kv::Key, kv::Value};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    http::{
        address::Addresses,
        body::{BodyBounds, Payload},
        caller::{Callers, Known},
        error::Error,
        long::LongTexts,
        pool::{Holdings, Pool},
        query::Query,
    },
    service::Service,
    telemetry::Metrics,
};

pub(crate) mod address;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod cluster;
pub(crate) mod error;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod kv;
pub(crate) mod layers;
pub(crate) mod long;
pub(crate) mod page;
pub(crate) mod pool;
pub(crate) mod query;
pub(crate) mod router;

/// What every request shares.
pub(crate) struct App {
    /// The product's verbs.
    pub(crate) service: Service,
    /// Who may call.
    pub(crate) callers: Callers,
    /// From where.
    pub(crate) addresses: Addresses,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Time and randomness.
    pub(crate) env: Arc<dyn Env>,
    /// How much, and how long.
    pub(crate) bounds: Bounds,
    /// The bytes of all bodies in flight.
    pub(crate) body_bytes: Arc<Pool>,
    /// The bytes of all answers that their clients have not taken yet.
    pub(crate) answer_bytes: Arc<Pool>,
    /// Where long bodies are read, and long values written.
    pub(crate) long_texts: LongTexts,
    /// The threads that pages of keys may hold.
    pub(crate) scans: Arc<Semaphore>,
    /// Places for tenants' requests.
    pub(crate) places: Arc<Pool>,
    /// Places for operators' requests: whoever ends an overload must not have to wait for its end.
    pub(crate) operator_places: Arc<Pool>,
    /// Counts requests, for their ids.
    pub(crate) requests: AtomicU64,
}

impl App {
    /// Takes a body's text as JSON.
    ///
    /// # Errors
    /// See [`body::parse`].
    pub(crate) async fn parse<T: DeserializeOwned + Send + 'static>(&self, text: String) -> Result<T, Error> {
        self.long_texts.work(text.len(), move || body::parse(&text)).await
    }
}

/// The bounds of one request, and of all together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most bytes of a key and of a value.
    pub(crate) value_bytes_max: usize,
    /// What a body may cost.
    pub(crate) body: BodyBounds,
    /// How long the store may take for one request.
    pub(crate) request_time_max: Duration,
}

/// One request, past the layers: what its handler works with.
pub(crate) struct Call<'a> {
    /// What every request shares.
    pub(crate) app: &'a App,
    /// The URL.
    pub(crate) uri: &'a Uri,
    /// The body, unread.
    pub(crate) payload: &'a mut Payload,
}

impl<'a> Call<'a> {
    /// The parameters in the URL.
    ///
    /// # Errors
    /// 400, see [`Query::parse`].
    pub(crate) fn query(&self) -> Result<Query<'a>, Error> {
        Query::parse(self.uri.query())
    }

    /// The body's text.
    ///
    /// # Errors
    /// See [`Payload::read`].
    pub(crate) async fn text(&mut self) -> Result<String, Error> {
        self.payload.read(self.app.bounds.body).await
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// See [`Payload::read`] and [`body::parse`].
    pub(crate) async fn json<T: DeserializeOwned + Send + 'static>(&mut self) -> Result<T, Error> {
        let text = self.text().await?;
        self.app.parse(text).await
    }

    /// The body as JSON; nothing at all is the default.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default + Send + 'static>(&mut self) -> Result<T, Error> {
        let text = self.text().await?;
        if text.is_empty() { Ok(T::default()) } else { self.app.parse(text).await }
    }

    /// When the store must have answered: counted from now, when the request has wholly arrived.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.app.bounds.request_time_max
    }

    /// A tenant's key.
    ///
    /// # Errors
    /// 400 when it is empty or too large.
    pub(crate) fn key<'t>(&self, text: impl Into<Cow<'t, str>>) -> Result<Key, Error> {
        Ok(Key::new(text.into().into_owned(), self.app.bounds.value_bytes_max)?)
    }

    /// A value to store.
    ///
    /// # Errors
    /// 400 when it is too large.
    pub(crate) fn value(&self, text: String) -> Result<Value, Error> {
        Ok(Value::new(text, self.app.bounds.value_bytes_max)?)
    }
}

/// A caller and its request.
pub(crate) struct KnownCall<'a> {
    /// The request.
    pub(crate) call: Call<'a>,
    /// Who makes it.
    pub(crate) known: Arc<Known>,
}

impl KnownCall<'_> {
    /// On whose account the request's parts of what all share are; the root key has none.
    pub(crate) fn holdings(&self) -> Option<Arc<Holdings>> {
        self.known.holdings().cloned()
    }

    /// Looks at the caller again, once the body has arrived: meanwhile its key may have been deleted, or its limits
    /// changed.
    ///
    /// # Errors
    /// 401 when the key is not valid any more.
    pub(crate) fn renew_caller(&mut self) -> Result<(), Error> {
        self.call.app.callers.renew(&mut self.known, &self.call.app.service)
    }
}
