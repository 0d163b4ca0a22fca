//! Wall clocks that can be moved while the nodes run: `libfaketime` under each node, which reads the offset from a file.
//!
//! The monotonic clock stays what it is: no administrator and no time server can move that one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Where Debian's package `faketime` keeps it, and where others do.
const PLACES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// The library that moves clocks.
pub(crate) struct FakeClock {
    library: PathBuf,
    dir: PathBuf,
}

impl FakeClock {
    /// Finds the library and tries it, or says why that cannot be. The offsets are kept in `dir`.
    pub(crate) fn find(dir: &Path, nodes: usize) -> anyhow::Result<Self> {
        let Some(library) = PLACES.iter().map(PathBuf::from).find(|path| path.exists()) else {
            bail!("libfaketime is not here (Debian: package `faketime`)");
        };
        let clock = Self { library, dir: dir.to_owned() };
        for number in 0..nodes {
            clock.set(number, 0)?;
        }
        let year = |offset| -> anyhow::Result<u32> {
            clock.set(0, offset)?;
            let mut date = Command::new("date");
            date.arg("+%Y").envs(clock.environment(0)).stdin(Stdio::null());
            let output = date.output().context("there is no program `date`")?;
            String::from_utf8_lossy(&output.stdout).trim().parse().context("`date` tells no year")
        };
        let (then, now) = (year(-10 * 365 * 86_400)?, year(0)?);
        ensure!(now - then == 10, "libfaketime does not move the clock of `date`");
        Ok(clock)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.dir.join(format!("node{number}.clock"))
    }

    /// What a node's environment must hold.
    pub(crate) fn environment(&self, number: usize) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file(number).display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Has a node's wall clock be so far from the true time, from within a second on.
    pub(crate) fn set(&self, number: usize, offset_seconds: i64) -> anyhow::Result<()> {
        let path = self.file(number);
        let new = path.with_extension("clock.new");
        // Whole or not at all: the node may read it at any moment.
        std::fs::write(&new, format!("{offset_seconds:+}s\n")).context("cannot write the clock's offset")?;
        std::fs::rename(&new, &path).context("cannot write the clock's offset")
    }
}
