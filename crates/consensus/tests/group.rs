//! A group of one over each engine: what it acknowledges is applied, and what it reads is linearizable.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    command::{Command, Condition, Data, Write},
    ids::{ApiKeyId, Keyspace, ScopeId},
    kv::{Key, Value},
    outcome::{DataOutcome, Outcome, Rejection},
};
use storage::memory::MemoryEngine;
use tokio::time::Instant;

fn options(checkpoints: CheckpointPolicy) -> Options {
    Options {
        group: GroupId::Values,
        member: MemberId::from(1),
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(150),
        checkpoints,
        log_disk_full: Arc::new(|| false),
        quiet: Duration::ZERO,
        spool: None,
        state_bytes_max: u64::MAX,
    }
}

fn rarely() -> CheckpointPolicy {
    CheckpointPolicy { applied_bytes: u64::MAX, interval: Duration::from_secs(3_600), dirty_bytes_max: u64::MAX }
}

async fn start(options: Options, log: MemoryLog) -> Group<MemoryEngine> {
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Values).unwrap();
    let group = Group::start(options, log, Solitary, machine, Arc::new(System::new())).await.unwrap();
    if !group.is_founded().await.unwrap() {
        group.found([(group.member(), Peer::default())].into()).await.unwrap();
    }
    group.await_serving(Duration::from_secs(10)).await.unwrap();
    group
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn command(write: Write) -> Command {
    Command::Data(Data {
        scope: ScopeId::ROOT,
        api_key: ApiKeyId::ROOT,
        request: None,
        quota_bytes: None,
        writes: vec![write],
    })
}

fn key(name: &str) -> Key {
    Key::new(name, 100).unwrap()
}

fn set(name: &str, value: &str) -> Command {
    let value = Value::new(value, 10_000_000).unwrap();
    command(Write::Put { key: key(name), value, condition: Condition::Always })
}

fn bump(name: &str) -> Command {
    command(Write::Bump { key: key(name), delta: 1 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_proposer_gets_its_own_outcome() {
    let group = start(options(rarely()), MemoryLog::default()).await;
    let proposers: Vec<_> = (0..2_000)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.submit(bump("n"), soon()).await.unwrap() })
        })
        .collect();
    let mut sums = Vec::new();
    for proposer in proposers {
        match proposer.await.unwrap() {
            Outcome::Data(DataOutcome { revision, result: Ok(Some(sum)) }) => {
                assert_eq!(revision as i64, sum, "one step of revision a bump");
                sums.push(sum);
            }
            other => panic!("{other:?}"),
        }
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=2_000).collect::<Vec<i64>>());
    let entries = group.status().last_index;
    assert!(entries < 1_000, "2,000 proposals waiting together became {entries} entries");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_outcome_and_not_an_error() {
    let group = start(options(rarely()), MemoryLog::default()).await;
    let setnx =
        command(Write::Put { key: key("k"), value: Value::new("v", 10).unwrap(), condition: Condition::Absent });
    assert!(matches!(
        group.submit(setnx.clone(), soon()).await,
        Ok(Outcome::Data(DataOutcome { result: Ok(None), .. }))
    ));
    assert!(matches!(
        group.submit(setnx, soon()).await,
        Ok(Outcome::Data(DataOutcome { revision: 1, result: Err(Rejection::KeyExists) }))
    ));
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_larger_than_a_batch_go_alone() {
    let group = start(options(rarely()), MemoryLog::default()).await;
    let large = "x".repeat(3_000_000);
    let proposers: Vec<_> = (0..8)
        .map(|n| {
            let (group, large) = (group.clone(), large.clone());
            tokio::spawn(async move { group.submit(set(&format!("k{n}"), &large), soon()).await.unwrap() })
        })
        .collect();
    for proposer in proposers {
        proposer.await.unwrap();
    }
    let reader = group.read(soon()).await.unwrap();
    assert_eq!(reader.usage(ScopeId::ROOT).unwrap().keys, 8);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_holds_everything_acknowledged_before_it() {
    let group = start(options(rarely()), MemoryLog::default()).await;
    for n in 1..=500_u64 {
        group.submit(bump("n"), soon()).await.unwrap();
        let reader = group.read(soon()).await.unwrap();
        assert_eq!(reader.get(ScopeId::ROOT, &key("n")).unwrap().unwrap().value(), n.to_string().as_bytes());
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_again_on_its_log_has_everything() {
    let log = MemoryLog::default();
    let group = start(options(rarely()), log.clone()).await;
    for _ in 0..100 {
        group.submit(bump("n"), soon()).await.unwrap();
    }
    group.shutdown().await;
    // A new, empty engine: the log alone brings it all back, and a new leader's read waits for that.
    let group = start(options(rarely()), log).await;
    let reader = group.read(soon()).await.unwrap();
    assert_eq!(reader.get(ScopeId::ROOT, &key("n")).unwrap().unwrap().value(), b"100");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_purge_the_log() {
    let policy =
        CheckpointPolicy { applied_bytes: 100_000, interval: Duration::from_secs(3_600), dirty_bytes_max: u64::MAX };
    let mut log = MemoryLog::default();
    let group = start(options(policy), log.clone()).await;
    for n in 0..5_000 {
        group.submit(set(&format!("k{}", n % 10), "some value"), soon()).await.unwrap();
    }
    let purged = tokio::time::timeout(Duration::from_secs(10), async {
        use openraft::storage::RaftLogStorage as _;
        loop {
            if let Some(purged) = log.get_log_state().await.unwrap().last_purged_log_id {
                return purged.index();
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(purged.await.unwrap() > 0);
    assert!(group.checkpoints().count > 0);
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_before_anything_is_proposed() {
    let full = Arc::new(AtomicBool::new(false));
    let asked = full.clone();
    let options = Options { log_disk_full: Arc::new(move || asked.load(Ordering::Relaxed)), ..options(rarely()) };
    let group = start(options, MemoryLog::default()).await;
    full.store(true, Ordering::Relaxed);
    let before = group.status().last_index;
    assert_eq!(group.submit(bump("n"), soon()).await, Err(Error::DiskFull));
    assert_eq!(group.status().last_index, before);
    assert!(group.read(soon()).await.is_ok(), "reads go on");
    full.store(false, Ordering::Relaxed);
    assert!(group.submit(bump("n"), soon()).await.is_ok());
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_group_never_claims_that_a_write_was_done() {
    let group = start(options(rarely()), MemoryLog::default()).await;
    group.shutdown().await;
    let refused = group.submit(bump("n"), soon()).await.unwrap_err();
    assert!(matches!(refused, Error::OutcomeUnknown | Error::Stopped | Error::NoLeader), "{refused:?}");
    assert_eq!(group.read(soon()).await.map(drop), Err(Error::Stopped));
}
