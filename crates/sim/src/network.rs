//! The network of a simulation: what is sent waits in a queue until it is due, and links can be slow, lossy, or cut in one
//! direction.
//!
//! 1. It stands where gRPC stands: below are connections that neither lose, double nor reorder what one stream carries. So
//!    what a bad network does is to hold things up for long, to break a connection with what is under way on it, and to
//!    leave it open whether a question arrived. Questions are independent of each other: they overtake each other and
//!    streams. A bad one delivers questions twice where that must do no harm: all but those that carry commands, which
//!    nothing below the transport ever sends again.
//! 2. What is sent into a cut is lost, or held until the cut heals, however late that is.
//! 3. Everything is received on the runtime of the host that it is for, in the host's own slice of time.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use consensus::transport::wire::{Route, WireError};
use futures_util::{StreamExt, stream, stream::BoxStream};
use server::{embed::Embedded, peer::Inbound};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::AbortHandle,
};

use crate::{dice::Dice, trace::Trace};

mod parcel;
mod way;

use parcel::{Asked, Parcel, Replied, Reply};

pub(crate) use way::SimNetwork;

/// A node's place, or that of all clients: the last one.
pub(crate) type Place = usize;

/// Frames of one direction of a stream that may be under way or unread.
const WINDOW_FRAMES: usize = 16;

/// What a link does to what it carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The least and the greatest delay, in microseconds.
    pub(crate) delay_us: (u64, u64),
    /// How many of a thousand messages are lost.
    pub(crate) loss_per_mille: u64,
    /// How many of a thousand questions arrive twice.
    pub(crate) doubled_per_mille: u64,
}

/// The answer to an HTTP request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) generation: Option<u64>,
    pub(crate) body: Bytes,
}

/// One process's end of everything.
#[derive(Default)]
struct Port {
    inbound: Option<Arc<dyn Inbound>>,
    app: Option<Arc<Embedded>>,
    calls: BTreeMap<u64, oneshot::Sender<Replied>>,
    opening: BTreeMap<u64, oneshot::Sender<Result<(), WireError>>>,
    /// Where a stream's frames go, by stream and whether this is its opener's end.
    frames: BTreeMap<(u64, bool), mpsc::UnboundedSender<Result<Bytes, WireError>>>,
    /// What sends the answers of streams that others opened.
    pumps: BTreeMap<u64, AbortHandle>,
}

struct Ends {
    opener: Place,
    acceptor: Place,
    credit: [Arc<Semaphore>; 2],
}

#[derive(Default)]
struct Link {
    is_cut: bool,
    held: Vec<Parcel>,
}

struct State {
    now_ns: u64,
    dice: Dice,
    trace: Trace,
    next_id: u64,
    sequence: u64,
    weather: Weather,
    addresses: BTreeMap<String, Place>,
    due: BTreeMap<(Place, u64, u64), (Place, Parcel)>,
    links: BTreeMap<(Place, Place), Link>,
    lanes: BTreeMap<(u64, bool), u64>,
    streams: BTreeMap<u64, Ends>,
    /// Questions under way at a place, and whose they are.
    serving: BTreeMap<u64, (Place, Place)>,
    ports: BTreeMap<Place, Port>,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net(..)")
    }
}

impl State {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn send(&mut self, from: Place, to: Place, parcel: Parcel) {
        let is_stream = parcel.lane().is_some() || matches!(parcel, Parcel::Broken { .. });
        let link = self.links.entry((from, to)).or_default();
        if link.is_cut {
            if is_stream || self.dice.chance(500) {
                link.held.push(parcel);
            }
            return;
        }
        if !is_stream && self.dice.chance(self.weather.loss_per_mille) {
            return;
        }
        if let Parcel::Call { asked, .. } = &parcel
            && asked.may_arrive_twice()
            && self.dice.chance(self.weather.doubled_per_mille)
        {
            // Nobody waits for the answer to the second one.
            let double = Parcel::Call { id: self.id(), asked: asked.clone() };
            self.deliver(from, to, double);
        }
        self.deliver(from, to, parcel);
    }

    fn deliver(&mut self, from: Place, to: Place, parcel: Parcel) {
        let (low, high) = self.weather.delay_us;
        let mut at = self.now_ns + 1_000 * self.dice.between(low, high);
        if let Some(lane) = parcel.lane() {
            let last = self.lanes.entry(lane).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.sequence += 1;
        self.due.insert((to, at, self.sequence), (from, parcel));
    }

    /// Both ends of a stream learn that it is gone, each as its link lets it.
    fn break_stream(&mut self, id: u64) {
        let Some(Ends { opener, acceptor, .. }) = self.streams.remove(&id) else { return };
        self.send(acceptor, opener, Parcel::Broken { id });
        self.send(opener, acceptor, Parcel::Broken { id });
    }

    fn streams_between(&self, one: Place, other: Place) -> Vec<u64> {
        let between = |ends: &Ends| [(one, other), (other, one)].contains(&(ends.opener, ends.acceptor));
        self.streams.iter().filter(|(_, ends)| between(ends)).map(|(id, _)| *id).collect()
    }
}

impl Net {
    pub(crate) fn new(dice: Dice, weather: Weather, trace: Trace) -> Self {
        let state = State {
            now_ns: 0,
            dice,
            trace,
            next_id: 0,
            sequence: 0,
            weather,
            addresses: BTreeMap::new(),
            due: BTreeMap::new(),
            links: BTreeMap::new(),
            lanes: BTreeMap::new(),
            streams: BTreeMap::new(),
            serving: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_now(&self, now_ns: u64) {
        self.state().now_ns = now_ns;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    pub(crate) fn name(&self, address: &str, place: Place) {
        self.state().addresses.insert(address.to_owned(), place);
    }

    /// Cuts one direction.
    pub(crate) fn cut(&self, from: Place, to: Place) {
        self.state().links.entry((from, to)).or_default().is_cut = true;
    }

    /// Ends all cuts: what was held comes now, and some connections turn out to be broken.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        let cut: Vec<(Place, Place)> =
            state.links.iter().filter(|(_, link)| link.is_cut).map(|(ends, _)| *ends).collect();
        for (from, to) in cut {
            let link = state.links.entry((from, to)).or_default();
            link.is_cut = false;
            let held = std::mem::take(&mut link.held);
            for parcel in held {
                state.send(from, to, parcel);
            }
            if state.dice.chance(500) {
                for id in state.streams_between(from, to) {
                    state.break_stream(id);
                }
            }
        }
    }

    /// A process begins at this place.
    pub(crate) fn plug_in(&self, place: Place) {
        self.state().ports.insert(place, Port::default());
    }

    /// The process at this place is gone: connections with it break.
    pub(crate) fn unplug(&self, place: Place) {
        let mut state = self.state();
        let port = state.ports.remove(&place);
        let ids: Vec<u64> = state
            .streams
            .iter()
            .filter(|(_, ends)| [ends.opener, ends.acceptor].contains(&place))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            state.break_stream(id);
        }
        let broken: Vec<(u64, Place)> =
            state.serving.iter().filter(|(_, (at, _))| *at == place).map(|(id, (_, caller))| (*id, *caller)).collect();
        for (id, caller) in broken {
            state.serving.remove(&id);
            state.reply_broken(place, caller, id);
        }
        drop(state);
        // What it held may send something when it is dropped.
        drop(port);
    }

    /// Where HTTP requests to this place go.
    pub(crate) fn serve_clients(&self, place: Place, app: Option<Arc<Embedded>>) {
        if let Some(port) = self.state().ports.get_mut(&place) {
            port.app = app;
        }
    }

    /// Sends an HTTP request; the answer comes to `from`, unless it is lost.
    pub(crate) fn request(&self, from: Place, to: Place, is_private: bool, request: Request<Body>) -> u64 {
        let mut state = self.state();
        let id = state.id();
        state.send(from, to, Parcel::Request { id, is_private, request: Box::new(request) });
        id
    }

    /// The answers that have come for clients; none where the connection broke.
    pub(crate) fn responses(&self, place: Place) -> Vec<(u64, Option<Answer>)> {
        let due = self.take_due(place);
        due.into_iter()
            .filter_map(|(_, parcel)| match parcel {
                Parcel::Response { id, answer } => Some((id, answer)),
                _ => None,
            })
            .collect()
    }

    fn take_due(&self, place: Place) -> Vec<(Place, Parcel)> {
        let mut state = self.state();
        let now = state.now_ns;
        let keys: Vec<_> = state.due.range((place, 0, 0)..=(place, now, u64::MAX)).map(|(key, _)| *key).collect();
        let mut due = Vec::with_capacity(keys.len());
        for key in keys {
            let (from, parcel) = state.due.remove(&key).expect("it is there");
            let event = format_args!("{} {from}>{place} {} {}", parcel.kind(), parcel.id(), parcel.bytes()).to_string();
            state.trace.note(now, &event);
            due.push((from, parcel));
        }
        due
    }

    /// Receives what is due at a place. On the place's runtime.
    pub(crate) fn receive(&self, place: Place) {
        for (from, parcel) in self.take_due(place) {
            self.receive_one(place, from, parcel);
        }
    }

    /// What is due at a place without a process: connections are refused.
    pub(crate) fn refuse(&self, place: Place) {
        for (from, parcel) in self.take_due(place) {
            let mut state = self.state();
            let refused = || WireError::Unreachable("nobody listens".to_owned());
            match parcel {
                Parcel::Call { id, .. } => state.send(place, from, Parcel::Reply { id, replied: Err(refused()) }),
                Parcel::Open { id, .. } => {
                    state.streams.remove(&id);
                    state.send(place, from, Parcel::Opened { id, opened: Err(refused()) });
                }
                Parcel::Request { id, .. } => state.send(place, from, Parcel::Response { id, answer: None }),
                _ => {}
            }
        }
    }

    fn receive_one(&self, place: Place, from: Place, parcel: Parcel) {
        let mut state = self.state();
        let Some(port) = state.ports.get_mut(&place) else { return };
        match parcel {
            Parcel::Call { id, asked } => {
                let Some(inbound) = port.inbound.clone() else {
                    let replied = Err(WireError::Unreachable("nobody listens".to_owned()));
                    return state.send(place, from, Parcel::Reply { id, replied });
                };
                state.serving.insert(id, (place, from));
                drop(state);
                let net = self.clone();
                tokio::spawn(async move {
                    let replied = answer(&*inbound, from, asked).await;
                    net.finish(place, from, id, Parcel::Reply { id, replied });
                });
            }
            Parcel::Reply { id, replied } => {
                let waiting = port.calls.remove(&id);
                drop(state);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(replied);
                }
            }
            Parcel::Open { id, route } => self.accept(state, place, from, id, route),
            Parcel::Opened { id, opened } => {
                let waiting = port.opening.remove(&id);
                if opened.is_err() {
                    port.frames.remove(&(id, true));
                    state.streams.remove(&id);
                }
                drop(state);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(opened);
                }
            }
            Parcel::Frame { id, to_opener, bytes } => {
                if let Some(frames) = port.frames.get(&(id, to_opener)).cloned() {
                    drop(state);
                    let _ = frames.send(Ok(bytes));
                }
            }
            Parcel::End { id, to_opener } => {
                let frames = port.frames.remove(&(id, to_opener));
                drop(state);
                drop(frames);
            }
            Parcel::Abandoned { id } => {
                let (frames, pump) = (port.frames.remove(&(id, false)), port.pumps.remove(&id));
                state.streams.remove(&id);
                drop(state);
                drop(frames);
                pump.inspect(AbortHandle::abort);
            }
            Parcel::Broken { id } => {
                let ends = [port.frames.remove(&(id, true)), port.frames.remove(&(id, false))];
                let (opening, pump) = (port.opening.remove(&id), port.pumps.remove(&id));
                drop(state);
                let broke = || WireError::Broken("the connection broke".to_owned());
                for frames in ends.into_iter().flatten() {
                    let _ = frames.send(Err(broke()));
                }
                if let Some(opening) = opening {
                    let _ = opening.send(Err(broke()));
                }
                pump.inspect(AbortHandle::abort);
            }
            Parcel::Request { id, is_private, request } => {
                let Some(app) = port.app.clone() else {
                    return state.send(place, from, Parcel::Response { id, answer: None });
                };
                state.serving.insert(id, (place, from));
                drop(state);
                let net = self.clone();
                tokio::spawn(async move {
                    let answer = http_answer(&app, is_private, *request).await;
                    drop(app);
                    net.finish(place, from, id, Parcel::Response { id, answer });
                });
            }
            Parcel::Response { .. } => {}
        }
    }

    /// Sends the answer to a question that is being served; nothing when the connection has broken.
    fn finish(&self, place: Place, to: Place, id: u64, parcel: Parcel) {
        let mut state = self.state();
        if state.serving.remove(&id).is_some() {
            state.send(place, to, parcel);
        }
    }

    fn accept(&self, mut state: MutexGuard<'_, State>, place: Place, from: Place, id: u64, route: Route) {
        let known = state.streams.get(&id).map(|ends| ends.credit.clone());
        let port = state.ports.get_mut(&place).expect("the caller has looked");
        let (Some(inbound), Some(credit)) = (port.inbound.clone(), known) else {
            state.streams.remove(&id);
            let opened = Err(WireError::Unreachable("nobody listens".to_owned()));
            return state.send(place, from, Parcel::Opened { id, opened });
        };
        let (sender, frames) = mpsc::unbounded_channel();
        port.frames.insert((id, false), sender);
        drop(state);
        let (net, frames) = (self.clone(), incoming(frames, credit[0].clone()));
        let pump = tokio::spawn(async move {
            match inbound.group_stream(route, frames).await {
                Ok(answers) => {
                    net.state().send(place, from, Parcel::Opened { id, opened: Ok(()) });
                    net.pump(place, from, id, answers, credit[1].clone()).await;
                }
                Err(refusal) => {
                    let opened = Err(WireError::Refused(refusal.0));
                    net.state().send(place, from, Parcel::Opened { id, opened });
                }
            }
        });
        if let Some(port) = self.state().ports.get_mut(&place) {
            port.pumps.insert(id, pump.abort_handle());
        }
    }

    /// Sends a stream's frames in one direction, as fast as the other end takes them.
    async fn pump(
        &self,
        from: Place,
        to: Place,
        id: u64,
        mut frames: BoxStream<'static, Bytes>,
        credit: Arc<Semaphore>,
    ) {
        let is_of = |ends: &Ends| ends.opener == to;
        while let Some(bytes) = frames.next().await {
            credit.acquire().await.expect("it is never closed").forget();
            let mut state = self.state();
            let Some(to_opener) = state.streams.get(&id).map(is_of) else { return };
            state.send(from, to, Parcel::Frame { id, to_opener, bytes });
        }
        let mut state = self.state();
        if let Some(to_opener) = state.streams.get(&id).map(is_of) {
            state.send(from, to, Parcel::End { id, to_opener });
        }
    }
}

impl State {
    fn reply_broken(&mut self, from: Place, to: Place, id: u64) {
        let is_client = !self.ports.contains_key(&to) && !self.addresses.values().any(|place| *place == to);
        let parcel = if is_client {
            Parcel::Response { id, answer: None }
        } else {
            Parcel::Reply { id, replied: Err(WireError::Broken("the connection broke".to_owned())) }
        };
        self.send(from, to, parcel);
    }
}

async fn answer(inbound: &dyn Inbound, from: Place, asked: Asked) -> Replied {
    let refused = |refusal: consensus::transport::wire::Refusal| WireError::Refused(refusal.0);
    match asked {
        Asked::Group(route, bytes) => inbound.group_call(route, bytes).await.map(Reply::Group).map_err(refused),
        Asked::Node(ask) => {
            let told = inbound.ask(state::ids::NodeId(from as u64), *ask).await;
            told.map(|told| Reply::Node(Box::new(told))).map_err(refused)
        }
    }
}

async fn http_answer(app: &Embedded, is_private: bool, request: Request<Body>) -> Option<Answer> {
    let response = app.request(is_private, request).await;
    let (parts, body) = response.into_parts();
    let header = parts.headers.get(api::header::CACHE_GENERATION);
    let generation = header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    // A body that breaks off breaks the connection.
    let body = http_body_util::BodyExt::collect(body).await.ok()?.to_bytes();
    Some(Answer { status: parts.status.as_u16(), generation, body })
}

/// What arrives at one end of a stream.
fn incoming(
    frames: mpsc::UnboundedReceiver<Result<Bytes, WireError>>,
    credit: Arc<Semaphore>,
) -> BoxStream<'static, Result<Bytes, WireError>> {
    stream::unfold((frames, credit), |(mut frames, credit)| async move {
        let frame = frames.recv().await?;
        credit.add_permits(1);
        Some((frame, (frames, credit)))
    })
    .boxed()
}
