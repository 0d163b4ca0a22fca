//! The data directory: whose it is, in which format, and that one process alone uses it.
//!
//! ```text
//! DIR/lock         held by the running process
//! DIR/node.json    format version, cluster id, node id, a checksum of them: written once, when the directory is made
//! DIR/bootstrap    exists until the first start has founded the cluster
//! DIR/joining      of a node that founds nothing: exists until its first start, which asks to be taken in
//! DIR/log/         the log of the `values` group
//! DIR/store/       its checkpoints
//! ```

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use state::ids::NodeId;
use uuid::Uuid;

use super::damage::REBUILD;

/// The format that this program writes: since 3, the store holds values in pieces.
const FORMAT: u32 = 3;
/// The first one that it reads. A directory of an earlier format than [`FORMAT`] gets that when it is opened, so that the program that
/// wrote it refuses it from then on, and does not take it for damaged.
const FORMAT_MIN: u32 = 2;
const IDENTITY: &str = "node.json";
const BOOTSTRAP: &str = "bootstrap";
const JOINING: &str = "joining";
const LOCK: &str = "lock";

/// Who the node is. Minted with the directory: a wiped or rebuilt directory is another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    /// The cluster that the directory belongs to.
    pub(crate) cluster_id: Uuid,
    /// The node's id, and its member id in the `values` group.
    pub(crate) node_id: NodeId,
}

/// [`IDENTITY`]'s content.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    identity: Identity,
    /// CRC-32C of the identity's fields: one digit that went bad makes another identity that looks as good. Directories
    /// that earlier versions made have none.
    checksum: Option<u32>,
}

impl Identity {
    fn checksum(&self) -> u32 {
        let fields =
            [&self.format.to_le_bytes()[..], self.cluster_id.as_bytes(), &self.node_id.0.to_le_bytes()].concat();
        crc32c::crc32c(&fields)
    }

    fn write(self, dir: &Path) -> anyhow::Result<()> {
        let stored = Stored { identity: self, checksum: Some(self.checksum()) };
        let json = serde_json::to_vec_pretty(&stored).context("encoding the identity")?;
        write_durably(dir, IDENTITY, &json)
    }
}

/// What a new data directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The first node of a new cluster.
    Founder,
    /// A further node of a cluster that exists, or will.
    Joiner,
}

/// An open data directory, locked against other processes until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Whether `path` holds a node's data directory.
    pub(crate) fn exists(path: &Path) -> bool {
        path.join(IDENTITY).exists()
    }

    /// Whether `path` holds a data directory that may still found its cluster.
    pub(crate) fn is_unfounded(path: &Path) -> bool {
        Self::exists(path) && path.join(BOOTSTRAP).exists()
    }

    /// Makes a data directory: for the first node of a new cluster with the marker that lets its first start found it,
    /// once; for a node that joins a cluster without.
    pub(crate) fn create(path: &Path, cluster_id: Uuid, node_id: NodeId, role: Role) -> anyhow::Result<()> {
        ensure!(!Self::exists(path), "{} is a data directory already; nothing was changed", path.display());
        create_private_dir(path)?;
        let _lock = lock(path)?;
        let leftovers = ["log", "store"].map(|name| path.join(name));
        if let Some(leftover) = leftovers.iter().find(|leftover| leftover.exists()) {
            bail!(
                "{} exists, but {IDENTITY} beside it does not: a part of a data directory is missing. Restore it, or \
                 start with an empty directory",
                leftover.display()
            );
        }
        // The marker first: a directory with an identity and no marker has founded its cluster, or asked to be taken in.
        match role {
            Role::Founder => {
                write_durably(path, BOOTSTRAP, b"the first start founds the cluster and removes this file\n")?;
            }
            Role::Joiner => {
                write_durably(path, JOINING, b"the first start asks to be taken in and removes this file\n")?;
            }
        }
        Identity { format: FORMAT, cluster_id, node_id }.write(path)
    }

    /// Opens and locks a data directory.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        ensure!(
            Self::exists(path),
            "{} is no data directory (it has no {IDENTITY}); make one with `insid init --data-dir {}`",
            path.display(),
            path.display()
        );
        let lock = lock(path)?;
        let file = path.join(IDENTITY);
        let json = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let damaged = || format!("{} is damaged: restore it from a backup. {REBUILD}", file.display());
        let format = serde_json::from_slice::<FormatOnly>(&json).with_context(damaged)?.format;
        ensure!(
            (FORMAT_MIN..=FORMAT).contains(&format),
            "{} has format {format}; this program reads formats {FORMAT_MIN} to {FORMAT}. Use the program that wrote it",
            path.display()
        );
        let Stored { mut identity, checksum } = serde_json::from_slice(&json).with_context(damaged)?;
        if checksum.is_some_and(|checksum| checksum != identity.checksum()) {
            bail!(damaged());
        }
        if identity.format < FORMAT {
            identity.format = FORMAT;
            identity.write(path)?;
        }
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where snapshots on their way in are kept.
    pub(crate) fn spool(&self) -> PathBuf {
        self.store()
    }

    /// Whether the next start may found the cluster.
    pub(crate) fn may_found(&self) -> bool {
        self.path.join(BOOTSTRAP).exists()
    }

    /// Whether the node has never asked to be taken in, so that it may begin with an empty log.
    pub(crate) fn may_join(&self) -> bool {
        self.path.join(JOINING).exists()
    }

    /// Ends the permission to begin with an empty log, durably. Called before the node asks to be taken in: from then on it
    /// may have voted, and a directory that lost its log must not come back under the same identity.
    pub(crate) fn consume_joining(&self) -> anyhow::Result<()> {
        self.consume(JOINING)
    }

    /// Ends the permission to found the cluster, durably. Called when the founding is durable, and before anything
    /// is served: so a directory that lost its log can never found a second cluster under the same identity.
    pub(crate) fn consume_marker(&self) -> anyhow::Result<()> {
        self.consume(BOOTSTRAP)
    }

    fn consume(&self, marker: &str) -> anyhow::Result<()> {
        let marker = self.path.join(marker);
        std::fs::remove_file(&marker).with_context(|| format!("cannot remove {}", marker.display()))?;
        sync_dir(&self.path)
    }
}

/// What every format's identity begins with.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Locks a directory against other processes until the answer is dropped.
pub(crate) fn lock(path: &Path) -> anyhow::Result<File> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&file)
        .with_context(|| format!("cannot open {}", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another insid process; stop it first", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", file.display())),
    }
}

/// Makes a directory, and those above it, for this user alone.
pub(crate) fn create_private_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a file for this user alone: whole and durable, or not at all. One that holds the same already stays: on a full disk
/// there may be no room for another.
pub(crate) fn write_durably(dir: &Path, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let target = dir.join(name);
    if std::fs::read(&target).is_ok_and(|found| found == content) {
        return sync_dir(dir);
    }
    let temporary = dir.join(format!("{name}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)
    };
    write().with_context(|| format!("cannot write {}", target.display()))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> anyhow::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("cannot sync {}", dir.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fresh(dir: &Path) -> anyhow::Result<()> {
        DataDir::create(dir, Uuid::from_u128(1), NodeId(2), Role::Founder)
    }

    #[test]
    fn a_made_directory_opens_as_what_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        let open = DataDir::open(dir.path()).unwrap();
        assert_eq!(open.identity(), Identity { format: FORMAT, cluster_id: Uuid::from_u128(1), node_id: NodeId(2) });
        assert!(open.may_found());
        open.consume_marker().unwrap();
        assert!(!open.may_found());
    }

    #[test]
    fn a_node_that_joins_may_begin_with_an_empty_log_once() {
        let dir = tempfile::tempdir().unwrap();
        DataDir::create(dir.path(), Uuid::from_u128(1), NodeId(2), Role::Joiner).unwrap();
        let open = DataDir::open(dir.path()).unwrap();
        assert!(open.may_join() && !open.may_found());
        open.consume_joining().unwrap();
        assert!(!open.may_join());
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        let _open = DataDir::open(dir.path()).unwrap();
        let refusal = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("in use by another insid process"), "{refusal}");
    }

    #[test]
    fn a_later_format_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        std::fs::write(dir.path().join(IDENTITY), br#"{"format":7,"something":"new"}"#).unwrap();
        let refusal = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("has format 7; this program reads formats 2 to 3"), "{refusal}");
    }

    #[test]
    fn a_directory_of_the_format_before_is_taken_over_and_then_refused_by_who_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        let former = Identity { format: 2, cluster_id: Uuid::from_u128(1), node_id: NodeId(2) };
        former.write(dir.path()).unwrap();
        let identity = DataDir::open(dir.path()).unwrap().identity();
        assert_eq!(identity, Identity { format: FORMAT, ..former });
        let json = std::fs::read(dir.path().join(IDENTITY)).unwrap();
        assert_eq!(serde_json::from_slice::<FormatOnly>(&json).unwrap().format, FORMAT);
        assert_eq!(DataDir::open(dir.path()).unwrap().identity(), identity);
    }

    #[test]
    fn what_is_no_data_directory_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("insid init --data-dir"), "{refusal}");
    }

    #[test]
    fn a_directory_that_lost_its_identity_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        std::fs::remove_file(dir.path().join(IDENTITY)).unwrap();
        let refusal = fresh(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("a part of a data directory is missing"), "{refusal}");
        assert!(fresh(dir.path()).is_err(), "still refused");
    }

    #[test]
    fn a_flipped_bit_in_the_identity_is_named_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        let expected = DataDir::open(dir.path()).unwrap().identity();
        let file = dir.path().join(IDENTITY);
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() * 8 {
            let mut damaged = good.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            std::fs::write(&file, damaged).unwrap();
            match DataDir::open(dir.path()) {
                Ok(open) => assert_eq!(open.identity(), expected, "bit {at}"),
                Err(error) => {
                    let said = format!("{error:#}");
                    assert!(said.contains("node.json is damaged") || said.contains("has format"), "bit {at}: {said}");
                }
            }
        }
    }

    #[test]
    fn an_identity_without_a_checksum_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        let file = dir.path().join(IDENTITY);
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json.as_object_mut().unwrap().remove("checksum").unwrap();
        std::fs::write(&file, json.to_string()).unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap().identity().node_id, NodeId(2));
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fresh(dir.path()).unwrap();
        std::fs::write(dir.path().join(IDENTITY), b"{").unwrap();
        let refusal = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("node.json is damaged"), "{refusal}");
    }
}
