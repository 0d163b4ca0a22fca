//! Clients that cost more than they ask: they say nothing, or one byte now and then, or read as slowly, or send as much as
//! they may, and more.

use std::{cell::RefCell, collections::BTreeMap, fmt, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::LocalSet,
    time::sleep,
};

use super::wire::{self, Connection};

/// The pause between two bytes of a slow client.
const BYTE_PAUSE: Duration = Duration::from_millis(500);
/// The pause before a connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// How many large answers a slow reader asks for at once: more than the system's own buffers take.
const PIPELINED: usize = 12;
/// What a slow reader's own system takes in for it.
const RECEIVE_BYTES: u32 = 4 * 1024;

/// Who is a nuisance, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nuisance {
    /// Connects, and says nothing.
    Silent,
    /// Sends the head of a request, a byte at a time.
    SlowHead,
    /// Sends a body, a byte at a time.
    SlowBody,
    /// Asks for large values and takes a byte at a time.
    SlowReader,
    /// Sends bodies as large as they may be, and larger, as fast as they are answered.
    HugeBody,
}

impl fmt::Display for Nuisance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::SlowHead => "slow heads",
            Self::SlowBody => "slow bodies",
            Self::SlowReader => "slow readers",
            Self::HugeBody => "huge bodies",
        })
    }
}

/// What came of nuisances of one kind.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// Connections made.
    pub connections: u64,
    /// Connections that a node ended.
    pub ended: u64,
    /// Connections that could not be made.
    pub refused: u64,
    /// Answers, by status: of huge bodies alone.
    pub statuses: BTreeMap<u16, u64>,
}

/// All of them.
pub(super) type Fates = BTreeMap<Nuisance, Fate>;

/// What the nuisances ask for, and of whom.
pub(super) struct Means {
    pub(super) addresses: Vec<SocketAddr>,
    /// A tenant's key with no rate worth the name.
    pub(super) key: String,
    /// The key of a large value in the Cache.
    pub(super) large: String,
    /// A body as large as a legal one is, one that the bound on values refuses, and one that is refused unread.
    pub(super) huge: Vec<Vec<u8>>,
}

/// Is a nuisance until it is told to stop, with so many connections of each kind; tells of each one that it makes.
pub(super) async fn annoy(
    means: Means,
    counts: &[(Nuisance, usize)],
    stop: watch::Receiver<bool>,
    made: mpsc::UnboundedSender<()>,
) -> Fates {
    let means = Rc::new(means);
    let fates: Rc<RefCell<Fates>> = Rc::default();
    let all = LocalSet::new();
    for (kind, count) in counts {
        for number in 0..*count {
            let annoyer =
                Annoyer { kind: *kind, number, means: means.clone(), fates: fates.clone(), made: made.clone() };
            let mut stop = stop.clone();
            all.spawn_local(async move {
                tokio::select! {
                    // Whoever could say so is gone: that says it too.
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = annoyer.run() => {}
                }
            });
        }
    }
    all.await;
    fates.take()
}

struct Annoyer {
    kind: Nuisance,
    number: usize,
    means: Rc<Means>,
    fates: Rc<RefCell<Fates>>,
    made: mpsc::UnboundedSender<()>,
}

impl Annoyer {
    async fn run(mut self) {
        loop {
            let address = self.means.addresses[self.number % self.means.addresses.len()];
            // It ends by the node's doing alone: the program's own end drops it where it stands.
            let done = self.annoy(address).await;
            let fate =
                |count: fn(&mut Fate) -> &mut u64| *count(self.fates.borrow_mut().entry(self.kind).or_default()) += 1;
            match done {
                Ok(()) => fate(|fate| &mut fate.ended),
                Err(_) => fate(|fate| &mut fate.refused),
            }
            self.number += 1;
            sleep(RECONNECT_PAUSE).await;
        }
    }

    fn connected(&self) {
        self.fates.borrow_mut().entry(self.kind).or_default().connections += 1;
        // Who does not count any more does not want to know.
        let _ = self.made.send(());
    }

    /// One connection, until the node ends it.
    async fn annoy(&self, address: SocketAddr) -> io::Result<()> {
        match self.kind {
            Nuisance::Silent => {
                let mut stream = TcpStream::connect(address).await?;
                self.connected();
                await_end(&mut stream).await;
            }
            Nuisance::SlowHead => {
                let mut stream = TcpStream::connect(address).await?;
                self.connected();
                drip(&mut stream, &wire::request("GET", "/vs?key=k", &self.means.key, "")).await;
            }
            Nuisance::SlowBody => {
                let mut stream = TcpStream::connect(address).await?;
                self.connected();
                let body = " ".repeat(64 * 1024);
                if stream.write_all(&wire::head("/vs", &self.means.key, body.len())).await.is_ok() {
                    drip(&mut stream, body.as_bytes()).await;
                }
            }
            Nuisance::SlowReader => {
                let socket = TcpSocket::new_v4()?;
                socket.set_recv_buffer_size(RECEIVE_BYTES)?;
                let mut stream = socket.connect(address).await?;
                self.connected();
                let get = wire::request("GET", &format!("/cache?key={}", self.means.large), &self.means.key, "");
                if stream.write_all(&get.repeat(PIPELINED)).await.is_ok() {
                    while matches!(stream.read(&mut [0]).await, Ok(1)) {
                        sleep(BYTE_PAUSE).await;
                    }
                }
            }
            Nuisance::HugeBody => {
                let mut connection = Connection::open(address).await?;
                self.connected();
                for request in self.means.huge.iter().cycle().skip(self.number) {
                    let Ok(answer) = connection.exchange(request).await else { break };
                    let mut fates = self.fates.borrow_mut();
                    *fates.entry(self.kind).or_default().statuses.entry(answer.status).or_default() += 1;
                    if answer.is_last {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Sends a byte at a time, and nothing at the end, until the other side ends the connection.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for byte in bytes {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(BYTE_PAUSE).await;
        }
        std::future::pending().await
    };
    let receive = async { while matches!(reader.read(&mut [0; 4096]).await, Ok(1..)) {} };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}

async fn await_end(stream: &mut TcpStream) {
    while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
}
