//! The peers' connections on their way in, which are bounded: whoever reaches the listener, with or without the
//! cluster's token, costs the node no more than [`CONNECTIONS_MAX`] of them, and takes no more than
//! [`CONNECTIONS_OF_ADDRESS_MAX`] from the others.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

/// Connections that are open at a time. A peer has three of its own, and for a moment those that it replaces.
pub(crate) const CONNECTIONS_MAX: usize = 1_024;
/// Those of one address: room for a few nodes on one machine.
const CONNECTIONS_OF_ADDRESS_MAX: usize = 128;

/// A connection that has its place until it is dropped.
pub(super) struct Placed {
    stream: TcpStream,
    _place: Place,
}

/// Lets in the connections for which there is a place; the others are closed at once, and logged by their address.
pub(super) fn bounded(
    incoming: TcpIncoming,
    mut on_refusal: impl FnMut(IpAddr) + Send,
) -> impl Stream<Item = io::Result<Placed>> + Send {
    let places = Places::default();
    incoming.filter_map(move |accepted| {
        let placed = accepted.and_then(|stream| {
            let address = stream.peer_addr()?.ip();
            let place = places.take(address);
            if place.is_none() {
                on_refusal(address);
            }
            Ok(place.map(|place| Placed { stream, _place: place }))
        });
        std::future::ready(placed.transpose())
    })
}

/// How many connections each address has.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let of_address = taken.get(&address).copied().unwrap_or(0);
        if of_address >= CONNECTIONS_OF_ADDRESS_MAX || taken.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        taken.insert(address, of_address + 1);
        Some(Place { places: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(of_address) = taken.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

impl Connected for Placed {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_has_its_places_and_all_have_theirs() {
        let places = Places::default();
        let address = |n: usize| IpAddr::from(Ipv4Addr::new(10, 0, 0, u8::try_from(n).unwrap()));
        let mut held: Vec<Place> = (0..CONNECTIONS_OF_ADDRESS_MAX).map(|_| places.take(address(1)).unwrap()).collect();
        assert!(places.take(address(1)).is_none(), "one address has taken what it may");
        held.pop();
        held.push(places.take(address(1)).expect("a place that was given back"));
        for n in 2..=CONNECTIONS_MAX / CONNECTIONS_OF_ADDRESS_MAX {
            held.extend((0..CONNECTIONS_OF_ADDRESS_MAX).map(|_| places.take(address(n)).unwrap()));
        }
        assert!(places.take(address(99)).is_none(), "all places are taken");
        held.clear();
        assert!(places.lock().is_empty(), "nothing is kept of addresses that are gone");
    }
}
