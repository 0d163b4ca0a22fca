//! Streams of snapshots that halt, overlap and come again.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use openraft::{async_runtime::watch::WatchReceiver as _, vote::leader_id_std::LeaderId};
use state::{
    apply::StateMachine,
    command::{Command, Condition, Data, Write},
    ids::{ApiKeyId, Keyspace, ScopeId},
    kv::{Key, Value},
};
use storage::memory::MemoryEngine;
use tokio::time::Instant;

use super::*;
use crate::{
    CheckpointPolicy, Options,
    env::System,
    log::{asked::Asked, memory::MemoryLog},
    transport::wire::{GroupId, Solitary},
    types::{MemberId, Peer, SnapshotMeta},
};

type Member = Group<MemoryEngine>;

const WAIT_MAX: Duration = Duration::from_secs(30);

async fn start(id: u64, spool: Option<PathBuf>) -> Member {
    let options = Options {
        group: GroupId::Values,
        member: MemberId::from(id),
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(150),
        checkpoints: CheckpointPolicy {
            applied_bytes: u64::MAX,
            interval: Duration::from_secs(3_600),
            dirty_bytes_max: u64::MAX,
        },
        log_disk_full: Arc::new(|| false),
        quiet: Duration::ZERO,
        spool,
        state_bytes_max: u64::MAX,
    };
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Values).unwrap();
    Group::start(options, MemoryLog::default(), Solitary, machine, Arc::new(System::new())).await.unwrap()
}

/// A leader, and what its snapshot of so many values of 100 kB is.
struct Source {
    leader: Member,
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

impl Source {
    async fn new(values: usize) -> Self {
        let leader = start(1, None).await;
        leader.found([(leader.member(), Peer::default())].into()).await.unwrap();
        leader.await_serving(WAIT_MAX).await.unwrap();
        for n in 0..values {
            let put = Write::Put {
                key: Key::new(format!("k{n}"), 100).unwrap(),
                value: Value::new(vec![b'x'; 100_000], usize::MAX).unwrap(),
                condition: Condition::Always,
            };
            let command = Command::Data(Data {
                scope: ScopeId::ROOT,
                api_key: ApiKeyId::ROOT,
                request: None,
                quota_bytes: None,
                writes: vec![put],
            });
            leader.submit(command, Instant::now() + WAIT_MAX).await.unwrap();
        }
        leader.checkpoint().await.unwrap();
        let snapshot = leader.raft().get_snapshot().await.unwrap().unwrap();
        let bytes = snapshot.snapshot.pieces().unwrap().collect::<Result<Vec<_>, _>>().unwrap().concat();
        Self { leader, meta: snapshot.meta, bytes }
    }

    fn vote(&self) -> Vote {
        self.leader.raft().metrics().borrow_watched().vote
    }

    /// The vote of the leader behind this one.
    fn next_vote(&self) -> Vote {
        let leader_id = LeaderId { term: self.vote().leader_id.term + 1, voted_for: MemberId::from(3) };
        Vote { leader_id, committed: true }
    }

    fn open(&self, receiver: &Member, vote: Vote) -> Sender {
        let (frames, queue) = mpsc::channel(16);
        let queue =
            stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|frame| (Ok(frame), queue)) });
        let opening = SnapshotOpening { vote, meta: self.meta.clone() };
        Sender { frames, answers: receiver.receive_snapshot(opening, queue.boxed()) }
    }

    fn is_equal(&self, receiver: &Member) -> bool {
        let hash = |member: &Member| member.local().applied().unwrap().state_hash;
        hash(&self.leader) == hash(receiver)
    }
}

/// The sending end of a stream.
struct Sender {
    frames: mpsc::Sender<Bytes>,
    answers: BoxStream<'static, Bytes>,
}

impl Sender {
    /// Sends these bytes, and returns when all of them have been taken from the stream.
    async fn send(&self, bytes: &[u8]) {
        for piece in bytes.chunks(1_000_000) {
            self.frames.send(message::encode(&SnapshotFrame::Piece(piece.to_vec()))).await.unwrap();
        }
        self.taken().await;
    }

    async fn end(&self) {
        self.frames.send(message::encode(&SnapshotFrame::End)).await.unwrap();
        self.taken().await;
    }

    async fn taken(&self) {
        eventually(|| self.frames.capacity() == self.frames.max_capacity()).await;
    }

    /// None when the stream has ended.
    async fn answer(&mut self) -> Option<SnapshotAnswer> {
        let frame = timeout(WAIT_MAX, self.answers.next()).await.unwrap()?;
        Some(message::decode(&frame).unwrap())
    }

    async fn have(&mut self) -> u64 {
        match self.answer().await {
            Some(SnapshotAnswer::Have(bytes)) => bytes,
            Some(SnapshotAnswer::Failed(reason)) => panic!("{reason}"),
            Some(SnapshotAnswer::Done(_)) | None => panic!("not asked for the bytes"),
        }
    }

    async fn done(&mut self) -> Vote {
        match self.answer().await {
            Some(SnapshotAnswer::Done(response)) => response.vote,
            Some(SnapshotAnswer::Failed(reason)) => panic!("{reason}"),
            Some(SnapshotAnswer::Have(bytes)) => panic!("asked for the bytes behind {bytes}"),
            None => panic!("the stream has ended"),
        }
    }
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < until, "waited too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_halted_keeps_no_newer_leader_out() {
    let source = Source::new(20).await;
    let receiver = start(2, None).await;
    let half = source.bytes.len() / 2;
    let mut halted = source.open(&receiver, source.vote());
    assert_eq!(halted.have().await, 0);
    halted.send(&source.bytes[..half]).await;

    let mut newer = source.open(&receiver, source.next_vote());
    assert_eq!(newer.have().await, half as u64, "what the other has brought is kept");
    newer.send(&source.bytes[half..]).await;
    newer.end().await;
    assert_eq!(newer.done().await, source.next_vote());
    assert!(halted.answer().await.is_none(), "nobody takes what the older one still sends");
    assert!(source.is_equal(&receiver));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_leaders_next_stream_takes_over_from_one_that_has_halted() {
    let source = Source::new(20).await;
    let receiver = start(2, None).await;
    let mut halted = source.open(&receiver, source.vote());
    assert_eq!(halted.have().await, 0);
    let mut next = source.open(&receiver, source.vote());
    assert_eq!(next.have().await, 0);
    next.send(&source.bytes).await;
    next.end().await;
    next.done().await;
    assert!(source.is_equal(&receiver));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_leaders_stream_disturbs_no_newer_ones() {
    let source = Source::new(20).await;
    let receiver = start(2, None).await;
    let mut newer = source.open(&receiver, source.next_vote());
    assert_eq!(newer.have().await, 0);
    let mut older = source.open(&receiver, source.vote());
    assert!(matches!(older.answer().await, Some(SnapshotAnswer::Failed(_))));
    newer.send(&source.bytes).await;
    newer.end().await;
    newer.done().await;

    eventually(|| receiver.newer_vote(&source.vote()).is_some()).await;
    let mut older = source.open(&receiver, source.vote());
    assert_eq!(older.done().await, source.next_vote(), "the older leader learns that it is none");
    assert!(source.is_equal(&receiver));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_does_no_harm_to_what_is_being_installed() {
    let dir = tempfile::tempdir().unwrap();
    // Large enough to be still under check when the second stream opens.
    let source = Source::new(300).await;
    let receiver = start(2, Some(dir.path().to_owned())).await;
    let mut first = source.open(&receiver, source.vote());
    assert_eq!(first.have().await, 0);
    first.send(&source.bytes).await;
    first.end().await;

    let mut second = source.open(&receiver, source.vote());
    let answer = second.answer().await;
    first.done().await;
    match answer {
        // As a rule the second has nothing more to bring.
        Some(SnapshotAnswer::Done(_)) => {}
        // openraft's word of what is applied may come a moment behind the installation.
        Some(SnapshotAnswer::Have(0)) => {
            second.send(&source.bytes).await;
            second.end().await;
            second.done().await;
        }
        Some(SnapshotAnswer::Have(_) | SnapshotAnswer::Failed(_)) | None => panic!("the second was not served"),
    }
    assert!(source.is_equal(&receiver));
    eventually(|| std::fs::read_dir(dir.path()).unwrap().count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_not_received_again() {
    let source = Source::new(20).await;
    let receiver = start(2, None).await;
    let mut first = source.open(&receiver, source.vote());
    assert_eq!(first.have().await, 0);
    first.send(&source.bytes).await;
    first.end().await;
    first.done().await;
    eventually(|| receiver.has_applied(source.meta.last_log_id)).await;
    // Its answer was lost: the leader sends it again.
    let mut again = source.open(&receiver, source.vote());
    assert_eq!(again.done().await, source.vote());
    assert!(source.is_equal(&receiver));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_thrown_away_and_comes_again() {
    let source = Source::new(20).await;
    let receiver = start(2, None).await;
    let mut damaged = source.bytes.clone();
    damaged[source.bytes.len() / 2] ^= 1;
    let mut first = source.open(&receiver, source.vote());
    assert_eq!(first.have().await, 0);
    first.send(&damaged).await;
    first.end().await;
    assert!(matches!(first.answer().await, Some(SnapshotAnswer::Failed(_))));

    let mut second = source.open(&receiver, source.vote());
    assert_eq!(second.have().await, 0);
    second.send(&source.bytes).await;
    second.end().await;
    second.done().await;
    assert!(source.is_equal(&receiver));
}

#[test]
fn a_spool_that_finds_the_disk_full_asks_the_log_for_room() {
    let log = Asked::default();
    for (kind, times) in [(io::ErrorKind::PermissionDenied, 0), (io::ErrorKind::StorageFull, 1)] {
        let unfinished = cannot_spool(&log, &kind.into());
        assert!(matches!(unfinished, Unfinished::Failed(reason) if reason.starts_with("cannot spool: ")));
        assert_eq!(log.times(), times, "{kind}");
    }
}
