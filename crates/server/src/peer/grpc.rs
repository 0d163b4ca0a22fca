//! The real network: gRPC over the node's own listener.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{net::TcpListener, sync::watch};

use super::{Inbound, Network, PeerOptions, ServeOptions, Way, client::Channels, server::serve};

/// The real network.
pub(crate) struct Grpc {
    serves: bool,
    /// Until it is served.
    listener: Mutex<Option<TcpListener>>,
}

impl Grpc {
    /// Listens there; a single node does not.
    pub(crate) fn new(listener: Option<TcpListener>) -> Self {
        Self { serves: listener.is_some(), listener: Mutex::new(listener) }
    }
}

impl Network for Grpc {
    fn serves(&self) -> bool {
        self.serves
    }

    fn way(&self, options: PeerOptions) -> Arc<dyn Way> {
        Arc::new(Channels::new(options))
    }

    fn serve(
        &self,
        options: ServeOptions,
        inbound: Arc<dyn Inbound>,
        stopping: watch::Receiver<bool>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let listener = listener.context("the peers' listener is served already")?;
            serve(listener, options, inbound, stopping).await
        }
        .boxed()
    }
}
