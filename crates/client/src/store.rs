//! The operations of both stores: one implementation, with the store as a parameter.

use std::marker::PhantomData;

use api::code::Code;
use api::{path, request, response};
use reqwest::Method;
use serde::Serialize;

use crate::answer::Answer;
use crate::call::{Call, Effect, Listener, fits_url};
use crate::client::{Client, unreadable};
use crate::cursor::Cursor;
use crate::error::Error;

mod sealed {
    pub trait Sealed {}
}

/// Which store: [`Values`] or [`Cache`].
pub trait Keyspace: sealed::Sealed + Send + Sync + 'static {
    /// The store's path below the API's base.
    const PATH: &str;
}

/// The durable Value Store.
#[derive(Debug)]
pub enum Values {}

/// The in-memory Cache.
#[derive(Debug)]
pub enum Cache {}

impl sealed::Sealed for Values {}
impl sealed::Sealed for Cache {}
impl Keyspace for Values {
    const PATH: &str = path::VS;
}
impl Keyspace for Cache {
    const PATH: &str = path::CACHE;
}

/// One store of the caller's scope. Keys and values are text of any length up to the server's bound (1 MiB by
/// default); a key is never empty.
pub struct Store<S> {
    client: Client,
    stale: bool,
    store: PhantomData<S>,
}

impl<S> Clone for Store<S> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), stale: self.stale, store: PhantomData }
    }
}

impl<S: Keyspace> Store<S> {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, stale: false, store: PhantomData }
    }

    /// The same store, with reads that a node answers at once from what it has: [`Answer::staleness`] says how old
    /// that may be. Without it every read is linearizable.
    #[must_use]
    pub fn stale(mut self) -> Self {
        self.stale = true;
        self
    }

    /// The value of `key`; `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: &str) -> Result<Answer<Option<String>>, Error> {
        let call = if fits_url(&[key]) {
            self.read(Method::GET, "").query("key", key)
        } else {
            self.read(Method::POST, path::GET).json(&request::KeyOnly { key: key.to_owned() })
        };
        let answer = self.client.answer::<response::Data>(&call).await.map(|answer| answer.map(|body| Some(body.data)));
        expecting(Code::KeyNotFound, None, answer)
    }

    /// Creates or replaces `key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set(&self, key: &str, value: &str) -> Result<Answer<()>, Error> {
        self.write(Method::POST, "", &request::Set { key: key.to_owned(), value: value.to_owned() }).await
    }

    /// Creates `key` if it is absent. Answers whether it was: `false` means that it exists and was left alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn setnx(&self, key: &str, value: &str) -> Result<Answer<bool>, Error> {
        let body = request::Set { key: key.to_owned(), value: value.to_owned() };
        self.write_if(path::SETNX, &body, Code::KeyExists).await
    }

    /// Replaces the value of `key` if it is `old`. Answers whether it was: `false` means that it differs or that the
    /// key is absent, and that nothing changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cas(&self, key: &str, old: &str, new: &str) -> Result<Answer<bool>, Error> {
        let body =
            request::CompareAndSwap { key: key.to_owned(), old_value: old.to_owned(), new_value: new.to_owned() };
        self.write_if(path::CAS, &body, Code::ValueDiffers).await
    }

    /// Removes `key`. That it was absent is no error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: &str) -> Result<Answer<()>, Error> {
        self.write(Method::DELETE, "", &request::KeyOnly { key: key.to_owned() }).await
    }

    /// One page of keys, in byte order: what `page` leaves out has the server's defaults (100 keys from the first).
    ///
    /// # Errors
    /// `invalid_parameter` for a limit outside 1..=1000, and for a missing prefix unless the key is root's; see
    /// [`Error`].
    pub async fn iterate(&self, page: &request::Iterate) -> Result<Answer<Vec<String>>, Error> {
        let texts = [page.prefix.as_deref().unwrap_or_default(), page.after.as_deref().unwrap_or_default()];
        if !fits_url(&texts) {
            return self.client.answer(&self.read(Method::POST, path::ITERATE).json(page)).await;
        }
        let request::Iterate { prefix, offset, limit, after } = page.clone();
        let parameters = [
            ("prefix", prefix),
            ("offset", offset.map(|offset| offset.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
            ("after", after),
        ];
        let mut call = self.read(Method::GET, path::ITERATE);
        for (name, value) in parameters {
            if let Some(value) = value {
                call = call.query(name, value);
            }
        }
        self.client.answer(&call).await
    }

    /// All keys that begin with `prefix`, read page by page as they are asked for. An empty prefix is the root key's.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Cursor<S> {
        Cursor::new(self.clone(), prefix)
    }

    fn read(&self, method: Method, route: &str) -> Call {
        let call = Call::new(Listener::Public, Effect::Read, method, &format!("{}{route}", S::PATH));
        if self.stale { call.query("consistency", "stale") } else { call }
    }

    async fn write(&self, method: Method, route: &str, body: &impl Serialize) -> Result<Answer<()>, Error> {
        let call = Call::new(Listener::Public, Effect::Write, method, &format!("{}{route}", S::PATH)).json(body);
        let success = self.client.send(&call).await?;
        Ok(Answer::new((), &success.headers))
    }

    /// A conditional write: `unmet` is the code that says that the condition does not hold.
    async fn write_if(&self, route: &str, body: &impl Serialize, unmet: Code) -> Result<Answer<bool>, Error> {
        let answer = self.write(Method::POST, route, body).await.map(|answer| answer.map(|()| true));
        expecting(unmet, false, answer)
    }
}

impl Store<Values> {
    /// Adds `delta` to the integer at `key`, where absent counts as 0, and answers the sum. A sum below 0 is stored
    /// as 0.
    ///
    /// # Errors
    /// `not_an_integer` when something else is stored, `sum_out_of_range` above `i64::MAX`; see [`Error`].
    pub async fn bump(&self, key: &str, delta: i64) -> Result<Answer<i64>, Error> {
        let route = format!("{}{}", path::VS, path::BUMP);
        let call = Call::new(Listener::Public, Effect::Write, Method::POST, &route)
            .json(&request::Bump { key: key.to_owned(), value: delta.to_string() });
        let success = self.client.send(&call).await?;
        let sum = serde_json::from_slice::<response::Data>(&success.body).ok().and_then(|body| body.data.parse().ok());
        match sum {
            Some(sum) => Ok(Answer::new(sum, &success.headers)),
            None => Err(unreadable(call.effect, success)),
        }
    }
}

/// Turns the one refusal that is an answer of the operation into `negative`.
fn expecting<T>(code: Code, negative: T, answer: Result<Answer<T>, Error>) -> Result<Answer<T>, Error> {
    match answer {
        Err(Error::Refused(refusal)) if refusal.code == Some(code) => Ok(refusal.standing.map(|()| negative)),
        answer => answer,
    }
}
