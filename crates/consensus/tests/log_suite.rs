//! openraft's own tests of a log, on both of ours.

#![allow(clippy::unwrap_used, missing_docs)]

mod logs;

use std::{
    io,
    sync::{Arc, Mutex},
};

use consensus::{
    log::{disk::DiskLog, memory::MemoryLog},
    types::{LogId, MemberId, Peer, StoredMembership, TypeConfig},
};
use futures_util::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError,
    alias::{SnapshotMetaOf, SnapshotOf},
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use storage::fs::OsDisk;

/// The least that the suite needs beside a log: it remembers what was applied, not what it did.
#[derive(Clone, Debug, Default)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Shared with the builders: what was built is the current snapshot.
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<TypeConfig>>>>,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, _: Vec<u8>) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, Vec<u8>>>> {
        let meta = self.snapshot.lock().unwrap().clone();
        Ok(meta.map(|meta| SnapshotOf::<TypeConfig, Vec<u8>> { meta, snapshot: Vec::new() }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, Vec<u8>>> {
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(SnapshotOf::<TypeConfig, Vec<u8>> { meta, snapshot: Vec::new() })
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, MemoryLog, Machine> for InMemory {
    async fn build(&self) -> Result<((), MemoryLog, Machine), StorageError<TypeConfig>> {
        Ok(((), MemoryLog::default(), Machine::default()))
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, DiskLog, Machine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, DiskLog, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(logs::setup(OsDisk, dir.path())).unwrap();
        Ok((dir, log, Machine::default()))
    }
}

#[test]
fn the_memory_log_passes_the_suite() {
    logs::runtime().block_on(Suite::test_all(InMemory)).unwrap();
}

#[test]
fn the_disk_log_passes_the_suite() {
    logs::runtime().block_on(Suite::test_all(OnDisk)).unwrap();
}

#[test]
fn members_are_written_as_they_were() {
    let member = MemberId { node: state::ids::NodeId(7), incarnation: 3 };
    let membership = openraft::Membership::new(
        vec![[member].into()],
        std::collections::BTreeMap::from([(member, Peer { address: "there:1".to_owned() })]),
    );
    let entry =
        consensus::types::Entry { log_id: logs::log_id(1, 0), payload: EntryPayload::Membership(membership.unwrap()) };
    logs::runtime().block_on(async {
        use openraft::RaftLogReader;
        let disk = storage::fs::faulty::FaultyDisk::new();
        let mut log = logs::open(&disk).unwrap();
        logs::append(&mut log, vec![entry.clone()]).await.unwrap();
        log.close().unwrap();
        let mut log = logs::open(&disk).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap(), [entry]);
    });
}
