//! One request, before it is known which node gets it.

use bytes::Bytes;
use reqwest::{Method, Url};
use serde::Serialize;

/// The longest URL that is sent, in bytes. The server takes 65,534, but many a proxy ends at 8 KiB; longer keys go
/// into a body.
pub(crate) const URL_BYTES_MAX: usize = 8 * 1024;

/// Which of a node's two addresses serves the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Public,
    Private,
}

/// What a request does, and so what its loss means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Read,
    Write,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) listener: Listener,
    pub(crate) effect: Effect,
    pub(crate) method: Method,
    /// The whole path, base included.
    pub(crate) path: String,
    /// The query's pairs, not yet encoded.
    pub(crate) query: Vec<(&'static str, String)>,
    /// A JSON body.
    pub(crate) body: Option<Bytes>,
    /// Whether a refusal is itself the answer that is looked for, so that nothing is tried twice.
    pub(crate) is_probe: bool,
}

impl Call {
    /// A call without query and body; `route` lies below the API's base path.
    pub(crate) fn new(listener: Listener, effect: Effect, method: Method, route: &str) -> Self {
        let path = format!("{}{route}", api::path::BASE);
        Self { listener, effect, method, path, query: Vec::new(), body: None, is_probe: false }
    }

    /// The same call, tried once.
    pub(crate) fn probe(mut self) -> Self {
        self.is_probe = true;
        self
    }

    /// The same call with a parameter in its query.
    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// The same call with `body` as JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        let text = serde_json::to_vec(body).expect("the contract's types are plain structs with text for keys");
        self.body = Some(Bytes::from(text));
        self
    }

    /// The URL on the node at `base`.
    pub(crate) fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), self.path));
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// Whether a query that holds `texts` stays within [`URL_BYTES_MAX`] however they are escaped.
pub(crate) fn fits_url(texts: &[&str]) -> bool {
    // Three bytes for an escaped one; a quarter of the room is left to host, path and the other parameters.
    texts.iter().map(|text| 3 * text.len()).sum::<usize>() <= URL_BYTES_MAX / 4 * 3
}
