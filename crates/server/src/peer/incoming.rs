//! The peers' connections on their way in, which are bounded: whoever reaches the listener, with or without the cluster's
//! token, costs the node no more than [`CONNECTIONS_MAX`] of them, and keeps no peer out.
//!
//! 1. Who connects is a *stranger* until a call on the connection has shown the cluster's token ([`Guest::prove`]).
//!    A stranger that has not done so within [`STRANGER_TIME_MAX`] is shown out, wherever it is: before, in or behind
//!    a handshake.
//! 2. Strangers have places of their own. When there is none left, it is the one that has waited longest that goes, not
//!    the one that comes: a peer needs a moment, and nobody else can make others wait by waiting.
//! 3. Who is known stays, and has a place among [`KNOWN_MAX`], of which each address has [`KNOWN_OF_ADDRESS_MAX`]: only
//!    those that have the token can take them.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tonic::transport::server::{Connected, TcpIncoming};

/// Connections that are open at a time.
pub(crate) const CONNECTIONS_MAX: usize = KNOWN_MAX + STRANGERS_MAX;
/// Connections of those who have shown the token. A peer has three of its own, and for a moment those that it replaces.
const KNOWN_MAX: usize = 768;
/// Those of one address: room for a few nodes on one machine.
const KNOWN_OF_ADDRESS_MAX: usize = 128;
/// Connections of those who have not.
const STRANGERS_MAX: usize = 256;
/// Those of one address.
const STRANGERS_OF_ADDRESS_MAX: usize = 128;
/// How long one may take to show the token: a handshake and a call, on a busy machine.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(10);

/// What is told of an address: why a connection of it was shown out.
pub(super) type OnRefusal = Arc<dyn Fn(IpAddr, &str) + Send + Sync>;

/// A connection that has its place until it is dropped.
pub(super) struct Placed {
    stream: TcpStream,
    guest: Guest,
    standing: Standing,
    on_refusal: OnRefusal,
}

/// How a connection stands. Whoever is out can neither read nor write.
enum Standing {
    /// Until this says what becomes of it.
    Stranger(BoxFuture<'static, Verdict>),
    Known,
    Out,
}

/// What becomes of a stranger.
enum Verdict {
    Known,
    Out(&'static str),
}

/// Gives each connection a place. Who has to go for that is closed, and told to `on_refusal`.
pub(super) fn bounded(incoming: TcpIncoming, on_refusal: OnRefusal) -> impl Stream<Item = io::Result<Placed>> + Send {
    let places = Places::default();
    incoming.map(move |accepted| {
        let stream = accepted?;
        let address = stream.peer_addr()?.ip();
        Ok(Placed::new(stream, &places, address, STRANGER_TIME_MAX, on_refusal.clone()))
    })
}

impl Placed {
    fn new(stream: TcpStream, places: &Places, address: IpAddr, time_max: Duration, on_refusal: OnRefusal) -> Self {
        let (guest, shown_out) = places.enter(address);
        let verdict = async move {
            match timeout(time_max, shown_out).await {
                Ok(Ok(())) => Verdict::Out("it had not shown the cluster's token, and others came"),
                Ok(Err(_)) => Verdict::Known, // nobody can show it out any more
                Err(_) => Verdict::Out("it has not shown the cluster's token in time"),
            }
        };
        Self { stream, guest, standing: Standing::Stranger(verdict.boxed()), on_refusal }
    }

    /// An error for whoever is out.
    fn admit(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Standing::Stranger(verdict) = &mut self.standing
            && let Poll::Ready(verdict) = verdict.poll_unpin(cx)
        {
            self.standing = match verdict {
                Verdict::Known => Standing::Known,
                Verdict::Out(reason) => {
                    (self.on_refusal)(self.guest.address, reason);
                    Standing::Out
                }
            };
        }
        match self.standing {
            Standing::Stranger(_) | Standing::Known => Ok(()),
            Standing::Out => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.guest.places.lock().connections.remove(&self.guest.ticket);
    }
}

/// The place of a connection, as its calls see it.
#[derive(Clone)]
pub(super) struct Guest {
    places: Places,
    /// Ascending in the order in which connections came.
    ticket: u64,
    address: IpAddr,
    /// Whether it has a place among the known.
    known: Arc<AtomicBool>,
}

impl Guest {
    /// Whose it is.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// A call has shown the token: from now on the connection stays. False when those who have shown it have taken all
    /// their places.
    pub(super) fn prove(&self) -> bool {
        if self.known.load(Ordering::Relaxed) {
            return true;
        }
        let mut taken = self.places.lock();
        let known = |connection: &&Connection| connection.show_out.is_none();
        let of_all = taken.connections.values().filter(known).count();
        let of_address = taken.of(self.address).filter(|(_, connection)| known(connection)).count();
        if of_all >= KNOWN_MAX || of_address >= KNOWN_OF_ADDRESS_MAX {
            return false;
        }
        // One that is gone, or was just shown out, needs no place any more.
        if let Some(connection) = taken.connections.get_mut(&self.ticket) {
            connection.show_out = None;
        }
        self.known.store(true, Ordering::Relaxed);
        true
    }
}

/// The connections that are open.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    /// By their tickets.
    connections: BTreeMap<u64, Connection>,
    next_ticket: u64,
}

struct Connection {
    address: IpAddr,
    /// Shows a stranger out. None for those who are known.
    show_out: Option<oneshot::Sender<()>>,
}

impl Places {
    /// A place for a stranger, and what tells him to go; or, by its end, that nobody will.
    fn enter(&self, address: IpAddr) -> (Guest, oneshot::Receiver<()>) {
        let (show_out, shown_out) = oneshot::channel();
        let mut taken = self.lock();
        taken.make_room(address);
        let ticket = taken.next_ticket;
        taken.next_ticket += 1;
        taken.connections.insert(ticket, Connection { address, show_out: Some(show_out) });
        drop(taken);
        (Guest { places: self.clone(), ticket, address, known: Arc::default() }, shown_out)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The connections of an address, those that came first before the others.
    fn of(&self, address: IpAddr) -> impl Iterator<Item = (u64, &Connection)> {
        let connections = self.connections.iter().map(|(ticket, connection)| (*ticket, connection));
        connections.filter(move |(_, connection)| connection.address == address)
    }

    /// Shows out the stranger that came first, of this address if it has as many as it may, or of all.
    fn make_room(&mut self, address: IpAddr) {
        let stranger = |(ticket, connection): (u64, &Connection)| connection.show_out.as_ref().map(|_| ticket);
        let of_address: Vec<u64> = self.of(address).filter_map(stranger).collect();
        let all = self.connections.iter().map(|(ticket, connection)| (*ticket, connection));
        let of_all: Vec<u64> = all.filter_map(stranger).collect();
        let first = if of_address.len() >= STRANGERS_OF_ADDRESS_MAX {
            of_address.first()
        } else if of_all.len() >= STRANGERS_MAX {
            of_all.first()
        } else {
            None
        };
        if let Some(connection) = first.and_then(|ticket| self.connections.remove(ticket))
            && let Some(show_out) = connection.show_out
        {
            let _ = show_out.send(()); // it may have gone by itself
        }
    }
}

impl Connected for Placed {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.admit(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.admit(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.admit(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.admit(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// For a stranger of these tests.
    const TIME_MAX: Duration = Duration::from_millis(50);

    fn address(n: usize) -> IpAddr {
        IpAddr::from(Ipv4Addr::new(10, 0, 0, u8::try_from(n).unwrap()))
    }

    fn leave(guest: &Guest) {
        guest.places.lock().connections.remove(&guest.ticket);
    }

    #[test]
    fn who_is_known_has_a_place_of_its_address_and_of_all() {
        let places = Places::default();
        let known = |n| {
            let (guest, shown_out) = places.enter(address(n));
            let is_known = guest.prove();
            assert_eq!(is_known, guest.prove(), "to prove it twice changes nothing");
            drop(shown_out);
            is_known.then_some(guest).ok_or(())
        };
        let mut guests: Vec<Guest> = (0..KNOWN_OF_ADDRESS_MAX).map(|_| known(1).unwrap()).collect();
        known(1).map(|_| ()).expect_err("one address has what it may");
        leave(&guests.pop().unwrap());
        guests.push(known(1).expect("a place that was given back"));
        for n in 2..=KNOWN_MAX / KNOWN_OF_ADDRESS_MAX {
            guests.extend((0..KNOWN_OF_ADDRESS_MAX).map(|_| known(n).unwrap()));
        }
        known(99).map(|_| ()).expect_err("all places are taken");
        let strangers = places.lock().connections.values().filter(|connection| connection.show_out.is_some()).count();
        assert_eq!(strangers, 2, "those who were refused are strangers still");
    }

    #[test]
    fn the_stranger_that_came_first_goes_for_the_one_that_comes() {
        let places = Places::default();
        let (peer, mut of_peer) = places.enter(address(1));
        assert!(peer.prove());
        let mut of_address: Vec<_> = (0..STRANGERS_OF_ADDRESS_MAX).map(|_| places.enter(address(1)).1).collect();
        of_address[0].try_recv().expect_err("there was room");
        of_address.push(places.enter(address(1)).1);
        of_address[0].try_recv().expect("the first of the address goes");
        of_address[1].try_recv().expect_err("and no other");

        let mut of_others = Vec::new();
        for n in 2..2 + STRANGERS_MAX / STRANGERS_OF_ADDRESS_MAX {
            of_others.extend((0..STRANGERS_OF_ADDRESS_MAX).map(|_| places.enter(address(n)).1));
        }
        of_address.last_mut().unwrap().try_recv().expect("all who came before them had to go");
        of_others[0].try_recv().expect_err("there is room for these");
        assert_eq!(of_peer.try_recv(), Err(oneshot::error::TryRecvError::Closed), "who is known stays");
        assert_eq!(places.lock().connections.len(), 1 + STRANGERS_MAX);
    }

    /// Two ends of a connection, of which the one is placed.
    async fn placed(places: &Places) -> (Placed, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (there, here) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let placed = Placed::new(here.unwrap().0, places, address(1), TIME_MAX, Arc::new(|_, _| ()));
        (placed, there.unwrap())
    }

    #[tokio::test]
    async fn who_shows_no_token_goes_when_the_time_is_over_and_who_does_stays() {
        let places = Places::default();
        let (mut stranger, _open) = placed(&places).await;
        let error = stranger.read_u8().await.expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(stranger);
        assert!(places.lock().connections.is_empty(), "nothing is kept of one that is gone");

        let (mut peer, _open) = placed(&places).await;
        assert!(peer.guest.prove());
        let waited = timeout(4 * TIME_MAX, peer.read_u8()).await;
        assert!(waited.is_err(), "it was shown out: {waited:?}");
    }
}
