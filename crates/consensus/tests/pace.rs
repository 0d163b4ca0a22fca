//! Who writes faster than the disk takes it waits for the checkpoint to go on, not for its end.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use consensus::{
    CheckpointPolicy, Error, Group, Options,
    env::System,
    log::memory::MemoryLog,
    transport::wire::{GroupId, Solitary},
    types::{MemberId, Peer},
};
use state::{
    apply::StateMachine,
    command::{Command, Data, Registry, Write},
    ids::{ApiKeyId, Keyspace, NodeId, ScopeId},
    kv::Key,
};
use storage::{Backlog, Engine, MemoryEngine, Rest, Row};
use tokio::time::{Instant, timeout};

enum End {
    Written,
    DiskFull,
}

/// What an engine would say whose checkpoint takes as long as the test likes.
struct Slow {
    rows: MemoryEngine,
    backlog: Arc<Mutex<Backlog>>,
    began: mpsc::Sender<()>,
    /// How it ends: with room or without.
    goes_on: Mutex<mpsc::Receiver<End>>,
}

impl Engine for Slow {
    type View = <MemoryEngine as Engine>::View;
    type Transaction<'a> = <MemoryEngine as Engine>::Transaction<'a>;

    fn view(&self) -> Self::View {
        self.rows.view()
    }

    fn begin(&self) -> Self::Transaction<'_> {
        self.rows.begin()
    }

    fn replace<E: From<storage::Error>>(&self, rows: impl Iterator<Item = Result<Row, E>>) -> Result<(), E> {
        self.rows.replace(rows)
    }

    fn checkpoint_when(
        &self,
        ready: impl FnOnce(&Self::View) -> storage::Result<()>,
        rest: Rest,
    ) -> storage::Result<Self::View> {
        let view = self.rows.checkpoint_when(ready, rest)?;
        *self.backlog.lock().unwrap() = Backlog { active_bytes: 50_000, frozen_bytes: 600_000, ..Backlog::default() };
        // The test may not look any more.
        let _ = self.began.send(());
        match self.goes_on.lock().unwrap().recv() {
            Ok(End::Written) => {
                *self.backlog.lock().unwrap() = Backlog::default();
                Ok(view)
            }
            Ok(End::DiskFull) | Err(_) => {
                *self.backlog.lock().unwrap() = Backlog { active_bytes: 1_000_000, ..Backlog::default() };
                Err(storage::Error::DiskFull { path: "/store".to_owned() })
            }
        }
    }

    fn checkpointed(&self) -> Self::View {
        self.rows.checkpointed()
    }

    fn backlog(&self) -> Backlog {
        *self.backlog.lock().unwrap()
    }
}

fn bump() -> Command {
    let writes = vec![Write::Bump { key: Key::new("n", 10).unwrap(), delta: 1 }];
    Command::Data(Data { scope: ScopeId::ROOT, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A group over an engine, and what that says it holds, at first `backlog`; who is told that a checkpoint has begun, and
/// lets it go on.
async fn start(
    backlog: Backlog,
    applied_bytes: u64,
) -> (Group<Slow>, Arc<Mutex<Backlog>>, mpsc::Receiver<()>, mpsc::Sender<End>) {
    let (began, has_begun) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let backlog = Arc::new(Mutex::new(backlog));
    let engine = Slow { rows: MemoryEngine::new(), backlog: backlog.clone(), began, goes_on: Mutex::new(goes_on) };
    let machine = StateMachine::open(Arc::new(engine), Keyspace::Values).unwrap();
    let options = Options {
        group: GroupId::Values,
        member: MemberId::from(1),
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(150),
        checkpoints: CheckpointPolicy {
            applied_bytes,
            interval: Duration::from_secs(3_600),
            dirty_bytes_max: 1_000_000,
        },
        log_disk_full: Arc::new(|| false),
        quiet: Duration::ZERO,
        spool: None,
        state_bytes_max: u64::MAX,
    };
    let group = Group::start(options, MemoryLog::default(), Solitary, machine, Arc::new(System::new())).await.unwrap();
    group.found([(group.member(), Peer::default())].into()).await.unwrap();
    group.await_serving(Duration::from_secs(10)).await.unwrap();
    (group, backlog, has_begun, go_on)
}

/// As [`start`], in the middle of a checkpoint. Beside the 600,000 that it is writing there is room for 100,000, and as they are written
/// for 400,000; 300,000 are there.
async fn start_filled() -> (Group<Slow>, Arc<Mutex<Backlog>>, mpsc::Sender<End>) {
    let begin = Backlog { active_bytes: 400_000, ..Backlog::default() };
    let (group, backlog, has_begun, go_on) = start(begin, 300_000).await;
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(Duration::from_secs(10))).await.unwrap().unwrap();
    backlog.lock().unwrap().active_bytes = 300_000;
    // It is let in before the gate knows.
    group.submit(bump(), soon()).await.unwrap();
    (group, backlog, go_on)
}

/// As where what was applied is told a moment after the checkpoint has ended that made room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_there_is_room_though_no_checkpoint_is_made() {
    let (group, backlog, _has_begun, _go_on) = start(Backlog::default(), u64::MAX).await;
    *backlog.lock().unwrap() = Backlog { active_bytes: 500_000, frozen_bytes: 100_000, ..Backlog::default() };
    // It is let in before the gate knows.
    group.submit(bump(), soon()).await.unwrap();
    let mut waits = Box::pin(group.submit(bump(), soon()));
    assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "there is no room");
    *backlog.lock().unwrap() = Backlog::default();
    timeout(Duration::from_secs(10), waits).await.expect("there is room").unwrap();
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_room_go_on_as_the_checkpoint_does() {
    let (group, backlog, go_on) = start_filled().await;
    let mut waits = Box::pin(group.submit(bump(), soon()));
    assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "300,000 are more than 100,000");
    backlog.lock().unwrap().written_bytes = 399_000;
    assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "300,000 are more than 299,500");
    backlog.lock().unwrap().written_bytes = 410_000;
    timeout(Duration::from_secs(10), waits).await.expect("there is room for more").unwrap();
    assert_eq!(group.checkpoints().count, 0, "the checkpoint is not done");

    go_on.send(End::Written).unwrap();
    timeout(Duration::from_secs(10), group.submit(bump(), soon())).await.unwrap().unwrap();
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_what_waits_for_room_is_refused_and_what_needs_none_goes_on() {
    let (group, _backlog, go_on) = start_filled().await;
    let mut waits = Box::pin(group.submit(bump(), soon()));
    assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "there is no room");

    go_on.send(End::DiskFull).unwrap();
    let refused = timeout(Duration::from_secs(10), waits).await.expect("it need not wait for the disk");
    assert_eq!(refused, Err(Error::DiskFull));
    // What a node needs to come up.
    let register = Command::Registry(Registry::Register { node: NodeId(1), previous: None, nonce: 7 });
    timeout(Duration::from_secs(10), group.submit(register, soon())).await.expect("it needs no room").unwrap();

    // It is tried again each second.
    go_on.send(End::Written).unwrap();
    let mut done = Err(Error::DiskFull);
    while done == Err(Error::DiskFull) {
        done = timeout(Duration::from_secs(10), group.submit(bump(), soon())).await.expect("there is room");
    }
    done.unwrap();
    group.shutdown().await;
}
