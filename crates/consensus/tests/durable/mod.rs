//! Members with a log and a store on disks in memory, which crash, stall, and start again.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::{cell::Cell, collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use consensus::{
    Group, Options,
    env::System,
    log::disk::{DiskLog, Setup},
    transport::{
        loopback::Hub,
        wire::{GroupId, Wire},
    },
    types::{MemberId, Peer},
};
use state::{apply::StateMachine, hash::StateHash, ids::Keyspace};
use storage::{
    disk::DiskEngine,
    fs::{Disk, faulty::FaultyDisk},
};

use crate::{
    logs::{self, session::Session},
    members::{self, eventually},
};

/// One life of a member.
pub struct Member {
    /// The disk below it; syncs that are held are the log's.
    pub session: Session,
    pub log: DiskLog,
    pub group: Group<DiskEngine>,
}

pub struct Durable {
    pub hub: Hub,
    pub tail_bytes: u64,
    pub election_timeout: Duration,
    pub disks: BTreeMap<u64, FaultyDisk>,
    pub running: BTreeMap<u64, Member>,
}

/// What a member on a disk is started with.
pub fn options(id: u64) -> Options {
    Options { group: GroupId::Values, ..members::options(id) }
}

/// Starts a member on its disk, on whose wire you like.
pub async fn start(disk: &FaultyDisk, options: Options, tail_bytes: u64, wire: impl Wire) -> Result<Member, String> {
    let session = Session::new(disk);
    let engine_options = storage::disk::Options { cache_bytes: 1 << 20 };
    disk.create_dir(Path::new("/data")).unwrap();
    let engine = DiskEngine::open(Arc::new(session.beside()), Path::new("/data/store"), engine_options);
    let engine = engine.map_err(|error| error.to_string())?;
    let machine = StateMachine::open(Arc::new(engine), Keyspace::Values).map_err(|error| error.to_string())?;
    let setup = Setup {
        segment_bytes: 1 << 20,
        cache_bytes_max: 1 << 20,
        tail_bytes,
        ..logs::setup(session.clone(), Path::new("/data/log"))
    };
    let log = DiskLog::open(setup).map_err(|error| error.to_string())?;
    let group = Group::start(options, log.clone(), wire, machine, Arc::new(System::new())).await?;
    Ok(Member { session, log, group })
}

impl Durable {
    /// Members 1 to `count`, founded together, with a leader.
    pub async fn start(count: u64, tail_bytes: u64) -> Self {
        Self::start_with(count, tail_bytes, options(1).election_timeout).await
    }

    pub fn without_members(tail_bytes: u64) -> Self {
        let election_timeout = options(1).election_timeout;
        Self { hub: Hub::default(), tail_bytes, election_timeout, disks: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// Members whose elections take their time, for tests in which nothing but what they test may move the leadership.
    pub async fn start_with(count: u64, tail_bytes: u64, election_timeout: Duration) -> Self {
        let mut durable = Self { election_timeout, ..Self::without_members(tail_bytes) };
        for id in 1..=count {
            durable.restart(id).await;
        }
        let voters: BTreeMap<MemberId, Peer> = (1..=count).map(|id| (MemberId::from(id), Peer::default())).collect();
        for member in durable.running.values() {
            member.group.found(voters.clone()).await.unwrap();
        }
        durable.leader().await;
        durable
    }

    pub fn group(&self, id: u64) -> &Group<DiskEngine> {
        &self.running[&id].group
    }

    /// Starts a member on what its disk holds.
    pub async fn restart(&mut self, id: u64) {
        let disk = self.disks.entry(id).or_default();
        let options = Options { election_timeout: self.election_timeout, ..options(id) };
        let member = start(disk, options, self.tail_bytes, self.hub.clone()).await;
        let member = member.unwrap_or_else(|reason| panic!("member {id} does not start: {reason}"));
        self.hub.join(&member.group);
        self.running.insert(id, member);
    }

    /// Kills the process and the machine in one moment; what was not synced is lost, or torn by a seed.
    pub async fn crash(&mut self, id: u64, torn: Option<u64>) {
        self.hub.leave(MemberId::from(id));
        let member = self.running.remove(&id).unwrap();
        member.crash(torn).await;
    }

    /// The member that leads, once it serves.
    pub async fn leader(&self) -> u64 {
        let serving = Cell::new(None);
        eventually("a member to serve as leader", || async {
            for (id, member) in &self.running {
                if member.group.status().is_leader && member.group.await_serving(Duration::from_secs(1)).await.is_ok() {
                    serving.set(Some(*id));
                }
            }
            serving.get().is_some()
        })
        .await;
        serving.get().unwrap()
    }

    pub fn others(&self, than: u64) -> Vec<u64> {
        self.running.keys().copied().filter(|id| *id != than).collect()
    }

    pub fn isolate(&self, id: u64) {
        let all: Vec<MemberId> = self.running.keys().map(|id| MemberId::from(*id)).collect();
        self.hub.isolate(MemberId::from(id), &all);
    }

    pub fn hash(&self, id: u64) -> StateHash {
        self.group(id).local().applied().unwrap().state_hash
    }

    /// Waits until all have applied the same; their states must be equal then.
    pub async fn await_equal_states(&self) {
        eventually("all members to have applied the same", || async {
            let applied = self.running.values().map(|member| member.group.local().applied().unwrap());
            let states: Vec<_> = applied.map(|applied| (applied.position, applied.state_hash)).collect();
            let same_place = states.windows(2).all(|pair| pair[0].0 == pair[1].0);
            assert!(!same_place || states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
            // What a member says of itself comes a moment behind its state.
            let place = states[0].0.map(|position| position.index);
            same_place && self.running.values().all(|member| Some(member.group.status().applied_index) == place)
        })
        .await;
    }

    pub async fn stop(self) {
        for member in self.running.into_values() {
            member.group.shutdown().await;
        }
    }
}

impl Member {
    /// Ends this life as a power cut does.
    pub async fn crash(self, torn: Option<u64>) {
        self.session.crash(torn);
        self.group.shutdown().await;
        // It reports what the crash did to it.
        drop(self.log.close());
    }
}
