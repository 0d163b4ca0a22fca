//! Who is calling, and whether they have a token left.
//!
//! 0. All of this only under the node's lease: without it, what this node knows of keys may be out of date.
//! 1. The key's text is taken from `Authorization`, hashed once, and forgotten.
//! 2. The hash is compared with the root key's in constant time, then looked up in a map of callers seen before.
//! 3. An entry of the map counts only for the version of the control plane at which it was made: a change of keys or
//!    limits raises that version before it is acknowledged, so the next request looks at the state again.
//! 4. Unknown keys are never remembered, so that trying keys costs no memory.
//! 5. Once a request's body has arrived, which may take long, the caller is looked at again: see [`Callers::renew`].
//!
//! The rate buckets live beside the map ([`Book`]), one per scope, so that a key shares its own with its aliases and
//! keeps it when its limits change. So does what each scope holds of what all share ([`Holdings`]).

use std::{
    collections,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use consensus::env::Env;
use papaya::HashMap;
use sha2::{Digest, Sha256};
use state::{
    ids::{ApiKeyHash, ApiKeyId, ScopeId},
    keys::{Caller, Entity, Limits},
};
use subtle::ConstantTimeEq;

use crate::{
    env::monotonic_ns,
    http::{error::Error, pool::Holdings},
    rate::{Book, Bucket, Refused},
    service::{self, Service},
};

/// No API key is longer than this, in bytes; what is longer is not even hashed.
const KEY_BYTES_MAX: usize = 256;

const MISSING: &str = "Give an API key: Authorization: Bearer <key>";
const MALFORMED: &str = "The Authorization header is malformed: send it once, as Bearer <key> or <key>";
const UNKNOWN: &str = "The API key is unknown, deleted or expired";

/// A caller with a valid key.
#[derive(Debug)]
pub(crate) struct Known {
    /// Who it is.
    pub(crate) caller: Caller,
    hash: ApiKeyHash,
    /// Its scope's tokens; the root key has no rate limit.
    bucket: Option<Arc<Bucket>>,
    /// What its scope has in hand here; the root key is not asked.
    holdings: Option<Arc<Holdings>>,
    control_version: u64,
}

impl Known {
    /// Whether this is the root key.
    pub(crate) fn is_root(&self) -> bool {
        self.bucket.is_none()
    }

    /// Whose data the caller reads and writes.
    pub(crate) fn scope(&self) -> ScopeId {
        self.caller.entity.scope
    }

    /// What the caller's scope holds of what all share; none for the root key.
    pub(crate) fn holdings(&self) -> Option<&Arc<Holdings>> {
        self.holdings.as_ref()
    }

    /// Takes one token for a data operation.
    ///
    /// # Errors
    /// 429 when there is none; 503 when the node has no share of the limits.
    pub(crate) fn take_token(&self, now_ns: u64) -> Result<(), Error> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        bucket.take(now_ns, self.caller.entity.limits.rate_per_second_data_limit).map_err(|refused| match refused {
            Refused::Limited(limited) => Error::RateLimited(limited),
            Refused::NoShare => service::Error::NoLeader.into(),
        })
    }
}

/// The callers of this node.
pub(crate) struct Callers {
    env: Arc<dyn Env>,
    root_hash: ApiKeyHash,
    root: Arc<Known>,
    known: HashMap<ApiKeyHash, Arc<Known>>,
    /// Looked into only when an entry of `known` is made.
    rates: Arc<Book>,
    /// As above.
    holdings: Mutex<collections::HashMap<ScopeId, Arc<Holdings>>>,
}

impl Callers {
    /// No callers yet but the root key.
    pub(crate) fn new(env: Arc<dyn Env>, root_key: &str, rates: Arc<Book>) -> Self {
        let root_hash = hash(root_key);
        let root = Known { caller: root_caller(), hash: root_hash, bucket: None, holdings: None, control_version: 0 };
        Self { env, root_hash, root: Arc::new(root), known: HashMap::new(), rates, holdings: Mutex::default() }
    }

    /// Who presents the key in these headers.
    ///
    /// # Errors
    /// 401 for every key that is not valid now; 503 without a lease.
    pub(crate) fn authenticate(&self, headers: &HeaderMap, service: &Service) -> Result<Arc<Known>, Error> {
        service.check_lease()?;
        let hash = hash(presented(headers)?);
        if self.is_root_hash(&hash) {
            return Ok(self.root.clone());
        }
        let known = self.find(hash, service)?;
        self.refuse_expired(&known)?;
        Ok(known)
    }

    /// Looks at the caller again, some time after [`Callers::authenticate`]: it is valid still, and under its limits
    /// of now. Costs one atomic load where nothing has changed.
    ///
    /// # Errors
    /// 401 when the key is not valid any more; 503 without a lease.
    pub(crate) fn renew(&self, known: &mut Arc<Known>, service: &Service) -> Result<(), Error> {
        service.check_lease()?;
        if known.is_root() {
            return Ok(());
        }
        if known.control_version != service.values().control_version() {
            *known = self.find(known.hash, service)?;
        }
        self.refuse_expired(known)
    }

    fn find(&self, hash: ApiKeyHash, service: &Service) -> Result<Arc<Known>, Error> {
        // Read before the state, so that an entry is never taken for newer than it is.
        let control_version = service.values().control_version();
        let remembered = self.known.pin().get(&hash).filter(|known| known.control_version == control_version).cloned();
        match remembered {
            Some(known) => Ok(known),
            None => self.look_up(hash, control_version, service),
        }
    }

    fn refuse_expired(&self, known: &Known) -> Result<(), Error> {
        match known.caller.entity.expires_at_unix_ms {
            Some(expires_at_unix_ms) if expires_at_unix_ms <= self.env.unix_ms() => Err(Error::Unauthorized(UNKNOWN)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the root key is presented in these headers. It follows from the secret, and no lease is needed to know it.
    ///
    /// # Errors
    /// 401 when no key is.
    pub(crate) fn presents_root(&self, headers: &HeaderMap) -> Result<bool, Error> {
        Ok(self.is_root_hash(&hash(presented(headers)?)))
    }

    /// The root key's holder.
    pub(crate) fn root(&self) -> Arc<Known> {
        self.root.clone()
    }

    /// Whether this is the root key's text.
    pub(crate) fn is_root(&self, key: &str) -> bool {
        self.is_root_hash(&hash(key))
    }

    fn is_root_hash(&self, hash: &ApiKeyHash) -> bool {
        hash.0.ct_eq(&self.root_hash.0).into()
    }

    fn look_up(&self, hash: ApiKeyHash, control_version: u64, service: &Service) -> Result<Arc<Known>, Error> {
        let caller = service.values().local().caller(&hash).map_err(service::Error::from)?;
        let Some(caller) = caller else {
            self.known.pin().remove(&hash);
            return Err(Error::Unauthorized(UNKNOWN));
        };
        let bucket = self.rates.bucket(caller.entity.scope);
        let holdings = Some(self.holdings().entry(caller.entity.scope).or_default().clone());
        let known = Arc::new(Known { caller, hash, bucket: Some(bucket), holdings, control_version });
        self.known.pin().insert(hash, known.clone());
        Ok(known)
    }

    /// Whether tenants' data operations have a rate here; the root key needs none.
    ///
    /// # Errors
    /// 503 while the node has no share of the limits.
    pub(crate) fn check_shares(&self) -> Result<(), Error> {
        let is_valid = self.rates.is_valid(monotonic_ns(&*self.env));
        if is_valid { Ok(()) } else { Err(service::Error::NoLeader.into()) }
    }

    /// Forgets what a next request can find again: entries of an older control version, full buckets that no entry
    /// holds, and what scopes hold that hold nothing. Called now and then, so that deleted keys leave nothing behind.
    pub(crate) fn sweep(&self, control_version: u64) {
        self.known.pin().retain(|_, known| known.control_version == control_version);
        self.rates.sweep(monotonic_ns(&*self.env));
        // Callers and requests hold their scope's.
        self.holdings().retain(|_, holdings| Arc::strong_count(holdings) > 1);
    }

    fn holdings(&self) -> MutexGuard<'_, collections::HashMap<ScopeId, Arc<Holdings>>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the cluster stores of a key.
pub(crate) fn hash(key: &str) -> ApiKeyHash {
    ApiKeyHash(Sha256::digest(key.as_bytes()).into())
}

/// The key's text in `Authorization: Bearer <key>` or `Authorization: <key>`.
fn presented(headers: &HeaderMap) -> Result<&str, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Error::Unauthorized(MISSING))?;
    let text = value.to_str().map_err(|_| Error::Unauthorized(MALFORMED))?.trim();
    let key = match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim_start(),
        Some(_) => return Err(Error::Unauthorized(MALFORMED)),
        None => text,
    };
    let well_formed = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if values.next().is_some() || !well_formed {
        return Err(Error::Unauthorized(MALFORMED));
    }
    Ok(key)
}

fn root_caller() -> Caller {
    Caller {
        id: ApiKeyId::ROOT,
        is_alias: false,
        entity: Entity {
            id: ApiKeyId::ROOT,
            scope: ScopeId::ROOT,
            name: "root".to_owned(),
            limits: Limits::default(), // never looked at: the root key has none
            expires_at_unix_ms: None,
            created_at_unix_ms: 0,
            aliases: Vec::new(),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_header_holds_one_key_with_or_without_bearer() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for (values, expected) in [
            (vec!["Bearer insi_x"], Ok("insi_x")),
            (vec!["bearer  insi_x "], Ok("insi_x")),
            (vec!["insi_x"], Ok("insi_x")),
            (vec![], Err(MISSING)),
            (vec![""], Err(MALFORMED)),
            (vec!["Bearer "], Ok("Bearer")),
            (vec!["Basic dXNlcg=="], Err(MALFORMED)),
            (vec!["insi_x insi_y"], Err(MALFORMED)),
            (vec!["insi_x", "insi_x"], Err(MALFORMED)),
            (vec![long.as_str()], Err(MALFORMED)),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            let found = presented(&headers).map_err(|error| error.describe().text.into_owned());
            assert_eq!(found, expected.map_err(str::to_owned), "{values:?}");
        }
    }
}
