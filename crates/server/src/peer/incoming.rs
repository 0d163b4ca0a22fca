//! The peers' connections on their way in, which are bounded: whoever reaches the listener, with or without the cluster's
//! token, costs the node no more than [`CONNECTIONS_MAX`] of them, and keeps no peer out by waiting.
//!
//! 1. Who connects is a *stranger* until a call on the connection has shown the cluster's token ([`Guest::prove`]).
//!    A stranger that has not done so within [`STRANGER_TIME_MAX`] is shown out, wherever it is: before, in or behind
//!    a handshake.
//! 2. Strangers have places of their own. When there is none left, one that has waited goes, not the one that comes: the
//!    first of the network that has the most. A peer needs a moment, and goes only where hundreds come from its own network, or
//!    from very many, within that moment.
//! 3. Who is known stays, and has a place among [`KNOWN_MAX`], of which each address has [`KNOWN_OF_ADDRESS_MAX`]: only
//!    those that have the token can take them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv6Addr},
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
/// Those of one [`network`].
const STRANGERS_OF_NETWORK_MAX: usize = 128;
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
                Ok(Ok(())) => Verdict::Out("it had made no call that was taken, and others came"),
                Ok(Err(_)) => Verdict::Known, // nobody can show it out any more
                Err(_) => Verdict::Out("it has made no call that was taken in time"),
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
        let known = || taken.connections.values().filter(|connection| connection.show_out.is_none());
        let of_all = known().count();
        let of_address = known().filter(|connection| connection.address == self.address).count();
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
    /// Shows a stranger out where one more of this address would be too many: the first that came from its network, or
    /// from the one that has the most.
    fn make_room(&mut self, address: IpAddr) {
        let mut strangers: HashMap<IpAddr, Vec<u64>> = HashMap::new();
        for (ticket, connection) in self.connections.iter().filter(|(_, connection)| connection.show_out.is_some()) {
            strangers.entry(network(connection.address)).or_default().push(*ticket);
        }
        let of_network = strangers.get(&network(address)).filter(|tickets| tickets.len() >= STRANGERS_OF_NETWORK_MAX);
        let is_full = strangers.values().map(Vec::len).sum::<usize>() >= STRANGERS_MAX;
        let crowd = of_network.or_else(|| strangers.values().max_by_key(|tickets| tickets.len()).filter(|_| is_full));
        if let Some(first) = crowd.and_then(|tickets| tickets.first())
            && let Some(Connection { show_out: Some(show_out), .. }) = self.connections.remove(first)
        {
            let _ = show_out.send(()); // it may have gone by itself
        }
    }
}

/// What stands for everybody who can choose this address for himself: of IPv6, 64 bits of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
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
        let mut of_address: Vec<_> = (0..STRANGERS_OF_NETWORK_MAX).map(|_| places.enter(address(1)).1).collect();
        of_address[0].try_recv().expect_err("there was room");
        of_address.push(places.enter(address(1)).1);
        of_address[0].try_recv().expect("the first of the address goes");
        of_address[1].try_recv().expect_err("and no other");

        let mut lone = places.enter(address(2)).1;
        let mut of_others: Vec<_> = (of_address.len()..STRANGERS_MAX).map(|_| places.enter(address(3)).1).collect();
        of_address[1].try_recv().expect_err("there was room");
        of_others.push(places.enter(address(3)).1);
        of_address[1].try_recv().expect("the first of those goes that are the most");
        lone.try_recv().expect_err("however long the only one of an address has been there");
        of_others[0].try_recv().expect_err("these are not the most");
        assert_eq!(of_peer.try_recv(), Err(oneshot::error::TryRecvError::Closed), "who is known stays");
        assert_eq!(places.lock().connections.len(), 1 + STRANGERS_MAX);
    }

    #[test]
    fn addresses_that_one_may_choose_from_are_one_network() {
        let networks = |addresses: [&str; 2]| addresses.map(|address| network(address.parse().unwrap()));
        for (alike, addresses) in [
            (true, ["2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6"]),
            (false, ["2001:db8:1:2::1", "2001:db8:1:3::1"]),
            (true, ["10.0.0.1", "::ffff:10.0.0.1"]),
            (false, ["10.0.0.1", "10.0.0.2"]),
        ] {
            let [one, other] = networks(addresses);
            assert_eq!(one == other, alike, "{addresses:?}");
        }
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
