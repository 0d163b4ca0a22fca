//! A wire inside one process, with switches: for tests, and for whoever simulates a network.
//!
//! A direction that is cut swallows what is sent on it: a question waits out its time, a stream stands still and goes on
//! when the direction is joined again, as TCP would. A frozen stream never goes on, nor says so: a connection whose other
//! end has forgotten it. A member that is not there refuses connections. Every way may be long, and streams slow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use storage::Engine;
use tokio::{sync::watch, time::Instant};

use crate::{
    group::Group,
    transport::wire::{Frames, Refusal, Route, Wire, WireError},
    types::MemberId,
};

/// How many items of a stream are on their way at a time.
const DELAYED_MAX: usize = 256;

trait Member: Send + Sync {
    fn receive(&self, route: Route, message: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>>;
    fn receive_stream(&self, route: Route, frames: Frames)
    -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, Refusal>>;
}

impl<E: Engine> Member for Group<E> {
    fn receive(&self, route: Route, message: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        Box::pin(async move { Self::receive(self, &route, message).await })
    }

    fn receive_stream(
        &self,
        route: Route,
        frames: Frames,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, Refusal>> {
        Box::pin(async move { Self::receive_stream(self, &route, frames).await })
    }
}

#[derive(Default)]
struct State {
    members: BTreeMap<MemberId, Arc<dyn Member>>,
    cut: BTreeSet<(MemberId, MemberId)>,
    /// Streams opened before this number are broken.
    broken: u64,
    /// Streams opened before this number stand still.
    frozen: u64,
    streams: u64,
    stream_bytes: u64,
    /// How long everything is on its way, one way.
    delay: Duration,
    /// How much each direction of a stream carries a second; none when without bounds.
    stream_bytes_per_s: Option<u64>,
}

/// Where the members of one group meet. Clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(()) }
    }
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    /// The member is there from now on.
    pub fn join<E: Engine>(&self, group: &Group<E>) {
        let member: Arc<dyn Member> = Arc::new(group.clone());
        self.change(|state| {
            state.members.insert(group.member(), member);
        });
    }

    /// The member is not there any more; its connections break.
    pub fn leave(&self, member: MemberId) {
        self.change(|state| {
            state.members.remove(&member);
            state.broken = state.streams + 1;
        });
    }

    /// Nothing that `from` sends arrives at `to`.
    pub fn cut(&self, from: MemberId, to: MemberId) {
        self.change(|state| {
            state.cut.insert((from, to));
        });
    }

    /// Cuts a member off from all others, both ways.
    pub fn isolate(&self, member: MemberId, others: &[MemberId]) {
        for other in others.iter().filter(|other| **other != member) {
            self.cut(member, *other);
            self.cut(*other, member);
        }
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        self.change(|state| state.cut.clear());
    }

    /// Breaks every stream there is; new ones can be opened at once.
    pub fn break_streams(&self) {
        self.change(|state| state.broken = state.streams + 1);
    }

    /// Halts every stream there is, for ever and without a word; new ones can be opened at once.
    pub fn freeze_streams(&self) {
        self.change(|state| state.frozen = state.streams + 1);
    }

    /// From now on everything is on its way for so long, each way; streams, when they are opened from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// From now on each direction of a stream carries no more than this.
    pub fn set_stream_rate(&self, bytes_per_s: Option<u64>) {
        self.change(|state| state.stream_bytes_per_s = bytes_per_s);
    }

    /// How many streams were opened so far.
    pub fn streams(&self) -> u64 {
        self.state().streams
    }

    /// How many bytes of frames were delivered so far.
    pub fn stream_bytes(&self) -> u64 {
        self.state().stream_bytes
    }

    /// Returns once the direction is not cut; false when the stream `number` is broken.
    async fn passes(&self, from: MemberId, to: MemberId, number: u64) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let state = self.state();
                if number < state.broken {
                    return false;
                }
                if !state.cut.contains(&(from, to)) && number >= state.frozen {
                    return true;
                }
            }
            // The sender lives in `self`.
            drop(changed.changed().await);
        }
    }

    /// A stream of one direction: each item waits for the direction, and the stream ends with an error when it breaks.
    fn carry(&self, from: MemberId, to: MemberId, number: u64, items: BoxStream<'static, Bytes>) -> Frames {
        let hub = self.clone();
        let items = delayed(items, self.state().delay);
        stream::unfold(Some(items), move |items| {
            let hub = hub.clone();
            async move {
                let mut items = items?;
                let mut changed = hub.changed.subscribe();
                loop {
                    if number < hub.state().broken {
                        return Some((Err(WireError::Broken("the stream was broken".to_owned())), None));
                    }
                    let item = tokio::select! {
                        item = items.next() => item?,
                        _ = changed.changed() => continue,
                    };
                    if !hub.passes(from, to, number).await {
                        return Some((Err(WireError::Broken("the stream was broken".to_owned())), None));
                    }
                    hub.state().stream_bytes += item.len() as u64;
                    hub.transmit(item.len()).await;
                    return Some((Ok(item), Some(items)));
                }
            }
        })
        .boxed()
    }

    /// Returns once a stream has carried so many bytes.
    async fn transmit(&self, bytes: usize) {
        let bytes_per_s = self.state().stream_bytes_per_s;
        if let Some(bytes_per_s) = bytes_per_s {
            tokio::time::sleep(Duration::from_millis(bytes as u64 * 1_000 / bytes_per_s)).await;
        }
    }

    fn member(&self, id: MemberId) -> Result<Arc<dyn Member>, WireError> {
        self.state().members.get(&id).cloned().ok_or_else(|| WireError::Unreachable(format!("{id} is not there")))
    }

    async fn question(&self, route: Route, message: Bytes) -> Result<Bytes, WireError> {
        let Route { from, to, .. } = route;
        let delay = self.state().delay;
        self.passes(from, to, u64::MAX).await;
        tokio::time::sleep(delay).await;
        let member = self.member(to)?;
        let answer = member.receive(route, message).await.map_err(|refusal| WireError::Refused(refusal.0));
        self.passes(to, from, u64::MAX).await;
        tokio::time::sleep(delay).await;
        answer
    }
}

/// The same items, each so much later; many are on their way at a time.
fn delayed(items: BoxStream<'static, Bytes>, delay: Duration) -> BoxStream<'static, Bytes> {
    if delay.is_zero() {
        return items;
    }
    let later = move |item| {
        let due = Instant::now() + delay;
        async move {
            tokio::time::sleep_until(due).await;
            item
        }
    };
    items.map(later).buffered(DELAYED_MAX).boxed()
}

impl Wire for Hub {
    async fn call(&self, _: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        match tokio::time::timeout(wait_max, self.question(route, message)).await {
            Ok(answer) => answer,
            Err(_) => Err(WireError::Broken("no answer in time".to_owned())),
        }
    }

    async fn stream(&self, _: &str, route: Route, frames: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        let Route { from, to, .. } = route;
        let number = {
            let mut state = self.state();
            state.streams += 1;
            state.streams
        };
        let member = self.member(to)?;
        let frames = self.carry(from, to, number, frames);
        let answers = member.receive_stream(route, frames).await.map_err(|refusal| WireError::Refused(refusal.0))?;
        Ok(self.carry(to, from, number, answers))
    }
}
