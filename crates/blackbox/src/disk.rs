//! A small file system in memory for one node's data, which can be filled.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Room for the log, its tail, and the store, with some to spare.
const BYTES: &str = "96m";
const BALLAST: &str = "ballast";

/// The file system, unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it, or says why that cannot be.
    pub(crate) fn mount(at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
        let options = format!("size={BYTES}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "insidb-blackbox"])
            .arg(at)
            .stdin(Stdio::null())
            .output()
            .context("there is no program `mount`")?;
        ensure!(mount.status.success(), "mount: {}", String::from_utf8_lossy(&mount.stderr).trim());
        Ok(Self(at.to_owned()))
    }

    /// Takes all that is free.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.0.join(BALLAST)).context("cannot fill the disk")?;
        for size in [64 * 1024, 1] {
            let block = vec![1_u8; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!("cannot fill the disk: {error}"),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.0.join(BALLAST)).context("cannot free the disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).stdin(Stdio::null()).status());
    }
}
