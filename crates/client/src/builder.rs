//! Setting a client up.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};

use crate::client::Client;
use crate::error::ConfigError;
use crate::retry::Policy;
use crate::tls;
use crate::transport::{Nodes, Transport};

/// What a client is made of. Only the URL has no default that does anything.
#[derive(Clone)]
pub struct Builder {
    urls: Vec<String>,
    admin_urls: Vec<String>,
    key: Option<String>,
    ca_pem: Option<Vec<u8>>,
    timeout: Duration,
    connect_timeout: Duration,
    answer_bytes_max: usize,
    policy: Policy,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            admin_urls: Vec::new(),
            key: None,
            ca_pem: None,
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(3),
            answer_bytes_max: 1 << 30,
            policy: Policy { tries_max: 4, backoff: Duration::from_millis(50), wait_max: Duration::from_secs(5) },
        }
    }
}

impl Builder {
    /// Adds a node's public listener. With several, the one that answered last is asked first, or the one that it named
    /// as the leader, and the next one when it cannot be reached or knows no leader.
    ///
    /// A node may send a write on (307) to a leader that is not among these: it is followed there, and the API key goes
    /// along, since the nodes know the cluster better than a list does. It never goes from https to http. So name only
    /// nodes that you trust with the key, and use https where others could answer in their place.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Adds the public listeners of several nodes.
    #[must_use]
    pub fn urls<U: Into<String>>(mut self, urls: impl IntoIterator<Item = U>) -> Self {
        self.urls.extend(urls.into_iter().map(Into::into));
        self
    }

    /// Adds a node's private listener, for [`Client::admin`].
    #[must_use]
    pub fn admin_url(mut self, url: impl Into<String>) -> Self {
        self.admin_urls.push(url.into());
        self
    }

    /// Adds the private listeners of several nodes.
    #[must_use]
    pub fn admin_urls<U: Into<String>>(mut self, urls: impl IntoIterator<Item = U>) -> Self {
        self.admin_urls.extend(urls.into_iter().map(Into::into));
        self
    }

    /// The API key that every request carries.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Trusts these certificates (PEM, one or more) and no others, in place of those that the platform trusts.
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// The longest that one try may take, its answer's body included. Default: 15 s, longer than a server takes to
    /// answer that an outcome is unknown.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest that a connection may take to come about. Default: 3 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The most tries of one call, the first included: at least 1, and every node gets one in any case. Where nodes cannot
    /// be reached or know no leader, the most rounds of all nodes: between two of them the client pauses, so that 4 last
    /// longer than an election. Default: 4.
    #[must_use]
    pub fn tries_max(mut self, tries_max: u32) -> Self {
        self.policy.tries_max = tries_max;
        self
    }

    /// The longest pause between two tries; when the server asks for a longer one, its error is handed out at once.
    /// Default: 5 s.
    #[must_use]
    pub fn retry_wait_max(mut self, wait_max: Duration) -> Self {
        self.policy.wait_max = wait_max;
        self
    }

    /// The largest answer that is read, in bytes. Default: 1 GiB, a page of 1,000 keys of 1 MiB.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes_max: usize) -> Self {
        self.answer_bytes_max = bytes_max;
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// When a URL, the key or the certificate cannot be used.
    pub fn build(self) -> Result<Client, ConfigError> {
        let public = parse_urls(&self.urls)?;
        let private = parse_urls(&self.admin_urls)?;
        let tls = tls::config(self.ca_pem.as_deref(), &[public.as_slice(), &private].concat())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(headers(self.key.as_deref())?)
            // A redirect is followed by `transport`, which knows where the key may go; and a database is asked
            // directly, whatever proxy the environment names for browsers.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|error| ConfigError::Start(error.without_url().to_string()))?;
        Ok(Client::new(Transport {
            http,
            public: Nodes::new(public),
            private: Nodes::new(private),
            policy: self.policy,
            answer_bytes_max: self.answer_bytes_max,
        }))
    }
}

/// How long an unused connection is kept: less than servers do, since a write that meets a closing connection has an
/// unknown outcome.
const POOL_IDLE: Duration = Duration::from_secs(10);

fn headers(key: Option<&str>) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, application/problem+json"));
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ConfigError::Key)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Parses URLs. Errors name no URL, since one with a password in it would be shown.
fn parse_urls(texts: &[String]) -> Result<Vec<Url>, ConfigError> {
    texts
        .iter()
        .map(|text| {
            let url = Url::parse(text.trim())
                .map_err(|_| ConfigError::Url("it is not one; http://127.0.0.1:8080 would be"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(ConfigError::Url("it begins with neither http:// nor https://"));
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err(ConfigError::Url("it holds a user name or password; the API key is set apart from it"));
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err(ConfigError::Url("it holds a query or a fragment"));
            }
            Ok(url)
        })
        .collect()
}
