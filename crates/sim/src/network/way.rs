//! A node's own view of the network: what it hands to the code under test.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Route, WireError};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use server::peer::{
    Inbound, Network, PeerOptions, ServeOptions, Way,
    message::{Ask, Told},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

use super::{Asked, Ends, Net, Parcel, Place, Replied, Reply, WINDOW_FRAMES, incoming};

/// The network, from one place.
#[derive(Clone, Debug)]
pub(crate) struct SimNetwork {
    pub(crate) net: Net,
    pub(crate) place: Place,
}

impl Network for SimNetwork {
    fn serves(&self) -> bool {
        true
    }

    fn way(&self, _: PeerOptions) -> Arc<dyn Way> {
        Arc::new(self.clone())
    }

    fn serve(
        &self,
        _: ServeOptions,
        inbound: Arc<dyn Inbound>,
        mut stopping: watch::Receiver<bool>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        let Self { net, place } = self.clone();
        if let Some(port) = net.state().ports.get_mut(&place) {
            port.inbound = Some(inbound);
        }
        async move {
            drop(stopping.wait_for(|stop| *stop).await);
            if let Some(port) = net.state().ports.get_mut(&place) {
                port.inbound = None;
            }
            Ok(())
        }
        .boxed()
    }
}

impl SimNetwork {
    async fn call(&self, address: &str, asked: Asked, wait_max: Duration) -> Replied {
        let replied = {
            let mut state = self.net.state();
            let to = place_of(&state.addresses, address)?;
            let (sender, replied) = oneshot::channel();
            let id = state.id();
            if let Some(port) = state.ports.get_mut(&self.place) {
                port.calls.insert(id, sender);
            }
            state.send(self.place, to, Parcel::Call { id, asked });
            replied
        };
        match timeout(wait_max, replied).await {
            Ok(replied) => replied.unwrap_or_else(|_| Err(WireError::Broken("the connection broke".to_owned()))),
            Err(_) => Err(WireError::Broken("no answer in time".to_owned())),
        }
    }
}

fn place_of(addresses: &std::collections::BTreeMap<String, Place>, address: &str) -> Result<Place, WireError> {
    addresses.get(address).copied().ok_or_else(|| WireError::Unreachable(format!("{address} is nobody's address")))
}

/// What a stream's opener holds: with it the stream ends.
struct Opened {
    net: Net,
    place: Place,
    to: Place,
    id: u64,
    pump: AbortHandle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.pump.abort();
        let mut state = self.net.state();
        let frames = state.ports.get_mut(&self.place).and_then(|port| port.frames.remove(&(self.id, true)));
        if state.streams.contains_key(&self.id) {
            state.send(self.place, self.to, Parcel::Abandoned { id: self.id });
        }
        drop(state);
        drop(frames);
    }
}

impl Way for SimNetwork {
    fn call<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        message: Bytes,
        wait_max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>> {
        async move {
            match self.call(address, Asked::Group(route, message), wait_max).await? {
                Reply::Group(bytes) => Ok(bytes),
                Reply::Node(_) => Err(WireError::Broken("an answer to another question".to_owned())),
            }
        }
        .boxed()
    }

    fn stream<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<Frames, WireError>> {
        async move {
            let credit = [(); 2].map(|()| Arc::new(Semaphore::new(WINDOW_FRAMES)));
            let (sender, queue) = mpsc::unbounded_channel();
            let (told, opened) = oneshot::channel();
            let (id, to) = {
                let mut state = self.net.state();
                let to = place_of(&state.addresses, address)?;
                let id = state.id();
                state.streams.insert(id, Ends { opener: self.place, acceptor: to, credit: credit.clone() });
                if let Some(port) = state.ports.get_mut(&self.place) {
                    port.frames.insert((id, true), sender);
                    port.opening.insert(id, told);
                }
                state.send(self.place, to, Parcel::Open { id, route });
                (id, to)
            };
            let (net, place, outgoing) = (self.net.clone(), self.place, credit[0].clone());
            let pump = tokio::spawn(async move { net.pump(place, to, id, frames, outgoing).await });
            let held = Opened { net: self.net.clone(), place, to, id, pump: pump.abort_handle() };
            opened.await.unwrap_or_else(|_| Err(WireError::Broken("the connection broke".to_owned())))?;
            let frames = incoming(queue, credit[1].clone());
            Ok(frames
                .map(move |frame| {
                    let _ = &held;
                    frame
                })
                .boxed())
        }
        .boxed()
    }

    fn ask<'a>(&'a self, address: &'a str, ask: &'a Ask, wait_max: Duration) -> BoxFuture<'a, Result<Told, WireError>> {
        async move {
            match self.call(address, Asked::Node(Box::new(ask.clone())), wait_max).await? {
                Reply::Node(told) => Ok(*told),
                Reply::Group(_) => Err(WireError::Broken("an answer to another question".to_owned())),
            }
        }
        .boxed()
    }
}
