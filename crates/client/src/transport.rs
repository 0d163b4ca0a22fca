//! From a call to an answer: which node, how many tries, and what a broken connection means.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{StatusCode, Url};

use crate::call::{Call, Effect, Listener};
use crate::error::{ConfigError, Error};
use crate::refusal::Refusal;
use crate::retry::Policy;

/// How often a node may send a write on to the leader: the leader may change while the redirect is under way.
const REDIRECTS_MAX: usize = 3;

/// The nodes of one listener, and which of them answered last.
pub(crate) struct Nodes {
    urls: Vec<Url>,
    preferred: AtomicUsize,
}

impl Nodes {
    pub(crate) fn new(urls: Vec<Url>) -> Self {
        Self { urls, preferred: AtomicUsize::new(0) }
    }

    /// Which of them a request to `url` went to; none for a node that only the others know.
    fn at(&self, url: &Url) -> Option<usize> {
        self.urls.iter().position(|node| node.origin() == url.origin())
    }
}

/// What sends.
pub(crate) struct Transport {
    pub(crate) http: reqwest::Client,
    pub(crate) public: Nodes,
    pub(crate) private: Nodes,
    pub(crate) policy: Policy,
    pub(crate) answer_bytes_max: usize,
}

/// A success, read whole.
pub(crate) struct Success {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Who answered, for messages.
    pub(crate) node: String,
    pub(crate) status: u16,
}

impl Transport {
    /// Sends `call` until it is answered, refused for good, or out of tries.
    pub(crate) async fn send(&self, call: &Call) -> Result<Success, Error> {
        let nodes = match call.listener {
            Listener::Public if self.public.urls.is_empty() => return Err(ConfigError::NoUrl.into()),
            Listener::Private if self.private.urls.is_empty() => return Err(ConfigError::NoAdminUrl.into()),
            Listener::Public => &self.public,
            Listener::Private => &self.private,
        };
        let first = nodes.preferred.load(Ordering::Relaxed);
        let mut tried = 0;
        // Why this round of all nodes has brought no answer so far.
        let mut round: Option<Error> = None;
        loop {
            let index = (first + tried as usize) % nodes.urls.len();
            tried += 1;
            let mut url = call.url(&nodes.urls[index]);
            let result = self.follow(call, &mut url).await;
            let is_answered = result
                .as_ref()
                .map_or_else(|error| error.refusal().is_some_and(|refusal| refusal.status < 500), |_| true);
            if is_answered {
                nodes.preferred.store(nodes.at(&url).unwrap_or(index), Ordering::Relaxed);
            }
            let error = match result {
                Ok(success) => return Ok(success),
                Err(error) => error,
            };
            // A node that answered says more than one that cannot be reached: why, and how long to wait.
            let error = match (round.take(), error) {
                (Some(said), Error::Unreachable { .. }) => said,
                (Some(_) | None, error) => error,
            };
            match self.policy.pause(tried, nodes.urls.len(), &error) {
                Some(pause) if !call.is_probe => {
                    tokio::time::sleep(pause).await;
                    // Without a pause it goes on in the same round.
                    round = pause.is_zero().then_some(error);
                }
                Some(_) | None => return Err(error),
            }
        }
    }

    /// One try, following a node's word on who leads; `url` is then where it ended. The key goes along, also to a node
    /// that was not configured, but never from https to http.
    async fn follow(&self, call: &Call, url: &mut Url) -> Result<Success, Error> {
        for _ in 0..=REDIRECTS_MAX {
            let response = self.once(call, url).await?;
            if response.status() != StatusCode::TEMPORARY_REDIRECT {
                return self.read(call.effect, url, response).await;
            }
            let next =
                response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
            *url = match next {
                Some(next) if next.scheme() == url.scheme() || next.scheme() == "https" => next,
                Some(_) | None => return self.read(call.effect, url, response).await,
            };
        }
        Err(unexpected(url, 307, "one redirect too many: its nodes do not agree on the leader"))
    }

    async fn once(&self, call: &Call, url: &Url) -> Result<reqwest::Response, Error> {
        let mut request = self.http.request(call.method.clone(), url.clone());
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        request.send().await.map_err(|error| broken(call.effect, url, &error))
    }

    /// Reads the answer whole, and tells success from refusal.
    async fn read(&self, effect: Effect, url: &Url, mut response: reqwest::Response) -> Result<Success, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(effect, url, &error))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                return Err(lost(effect, url, "the answer is larger than answer_bytes_max".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        let node = node(url);
        if status.is_success() {
            return Ok(Success { headers: response.headers().clone(), body, node, status: status.as_u16() });
        }
        if status.is_client_error() || status.is_server_error() {
            return Err(Refusal::read(status.as_u16(), response.headers(), &body).into_error(effect, &node));
        }
        if status == StatusCode::TEMPORARY_REDIRECT {
            let refusal = Refusal::read(status.as_u16(), response.headers(), &body);
            return Err(match refusal.code {
                Some(_) => refusal.into_error(effect, &node),
                None => unexpected(url, 307, "a redirect that cannot be followed"),
            });
        }
        Err(unexpected(url, status.as_u16(), "which InsiDB never does"))
    }
}

/// What a failed try proves: without a connection nothing was sent; with one, a write may have been done.
fn broken(effect: Effect, url: &Url, error: &reqwest::Error) -> Error {
    if error.is_connect() {
        return Error::Unreachable { node: node(url), reason: root_cause(error) };
    }
    lost(effect, url, if error.is_timeout() { "timed out".to_owned() } else { root_cause(error) })
}

fn lost(effect: Effect, url: &Url, reason: String) -> Error {
    let node = node(url);
    match effect {
        Effect::Read => Error::Interrupted { node, reason },
        Effect::Write => Error::OutcomeUnknown { node, reason, refusal: None },
    }
}

fn unexpected(url: &Url, status: u16, reason: &'static str) -> Error {
    Error::UnexpectedAnswer { node: node(url), status, reason }
}

/// The innermost cause: the layers around it say nothing, and the outermost would show the URL with its key.
fn root_cause(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else { return "the request could not be sent".to_owned() };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A node's name in messages: scheme, host and port.
fn node(url: &Url) -> String {
    url.origin().ascii_serialization()
}
