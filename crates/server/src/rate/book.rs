//! The buckets of a node, one per scope.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use state::ids::ScopeId;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Share,
    bucket::{Bucket, Source},
};

/// The buckets of a node. A request keeps the one that it found; finding it takes a lock.
#[derive(Debug)]
pub(crate) struct Book {
    source: Arc<Source>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    /// What a scope that was not seen before has: nobody takes from it.
    model: Bucket,
    buckets: HashMap<ScopeId, Arc<Bucket>>,
}

impl Book {
    /// The buckets of a node that has no peers: each scope has its whole limit.
    pub(crate) fn alone() -> Self {
        let source = Arc::new(Source { valid_until_ns: AtomicU64::new(u64::MAX), calls: None });
        Self::new(source, Share::WHOLE, true)
    }

    /// The buckets of a node of a cluster, which have nothing yet, and where they send word: the scopes that are in use
    /// and not looked after, and those that get low.
    pub(crate) fn shared() -> (Self, UnboundedReceiver<ScopeId>) {
        // Not bounded by its type, but by its use: a bucket sends again only when it has been heard.
        let (calls, called) = unbounded_channel();
        let source = Arc::new(Source { valid_until_ns: AtomicU64::new(0), calls: Some(calls) });
        (Self::new(source, Share::NONE, false), called)
    }

    fn new(source: Arc<Source>, share: Share, is_full: bool) -> Self {
        let model = Bucket::new(ScopeId::ROOT, source.clone(), share, is_full);
        Self { source, shelf: Mutex::new(Shelf { model, buckets: HashMap::new() }) }
    }

    /// The scope's bucket.
    pub(crate) fn bucket(&self, scope: ScopeId) -> Arc<Bucket> {
        let Shelf { model, buckets } = &mut *self.shelf();
        buckets.entry(scope).or_insert_with(|| Arc::new(model.copy_for(scope))).clone()
    }

    /// Whether the node has shares, at the moment `now_ns`.
    pub(crate) fn is_valid(&self, now_ns: u64) -> bool {
        now_ns < self.source.valid_until_ns.load(Ordering::Acquire)
    }

    /// Forgets full buckets that nobody holds.
    pub(crate) fn sweep(&self, now_ns: u64) {
        self.shelf().buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now_ns));
    }

    /// The shares are good until then.
    pub(super) fn extend(&self, valid_until_ns: u64) {
        self.source.valid_until_ns.store(valid_until_ns, Ordering::Release);
    }

    /// Gives this share to every scope, those aside that `has_own` has one for, and those that will be seen.
    pub(super) fn set_default(&self, now_ns: u64, share: Share, has_own: impl Fn(&ScopeId) -> bool) {
        let Shelf { model, buckets } = &mut *self.shelf();
        model.set_share(now_ns, share, 0);
        for (_, bucket) in buckets.iter().filter(|(scope, _)| !has_own(scope)) {
            bucket.set_share(now_ns, share, 0);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
