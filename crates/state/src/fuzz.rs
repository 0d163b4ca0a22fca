//! Harnesses for whatever bytes may come: what each decoder must do with any input, more than not to panic.
//!
//! 1. A [`Target`] is one harness: `check` panics when its promise is broken, `seeds` are whole and true inputs of every kind.
//! 2. `fuzz/` at the root of the repository runs them guided by coverage, for as long as one likes.
//! 3. [`Target::run_short`] runs the corpus of the repository and a fixed number of mutations of it, from a fixed seed: the
//!    test suite does. The corpus is written by [`Target::write_seeds`], and by whoever adds what a long run has found.
//!
//! This module has the harnesses of this crate; the crates above have their own.

mod command;
mod layout;
mod mutate;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use self::mutate::Mutator;
pub use self::{command::COMMAND, layout::LAYOUT};
pub use crate::snapshot::fuzz::SNAPSHOT;

/// One harness.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the corpus's directory, and of the program in `fuzz/`.
    pub name: &'static str,
    /// Panics when the promise is broken.
    pub check: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Checks every file of the target's corpus in `corpora`, and `mutations` mutations of them. The same ones each time.
    ///
    /// # Panics
    /// When the promise is broken, or the corpus lacks one of the seeds.
    pub fn run_short(&self, corpora: &Path, mutations: u64) {
        let dir = corpora.join(self.name);
        let corpus = read(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for seed in (self.seeds)() {
            assert!(corpus.contains(&seed), "{} lacks a seed: run `just fuzz-seeds`", dir.display());
        }
        for input in &corpus {
            (self.check)(input);
        }
        let mut mutator = Mutator::new(self.name, corpus);
        for _ in 0..mutations {
            (self.check)(&mutator.next());
        }
    }

    /// Writes the seeds into the target's corpus in `corpora`.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_seeds(&self, corpora: &Path) -> io::Result<()> {
        let dir = corpora.join(self.name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in (self.seeds)().into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:02}")), seed)?;
        }
        Ok(())
    }
}

/// The files of a corpus, in the order of their names.
fn read(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|file| Ok(file?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    paths.into_iter().map(fs::read).collect()
}

/// What the tests and the writing of seeds call: the corpora of the repository, as a crate's manifest directory sees them.
pub fn corpora(manifest_dir: &str) -> PathBuf {
    Path::new(manifest_dir).join("../../fuzz/corpus")
}

/// Takes bytes off an input, zeros when there are none left.
pub struct Taker<'a>(pub &'a [u8]);

impl<'a> Taker<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        let mut out = [0; N];
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough to reach every branch, and over in a second or two.
    const MUTATIONS: u64 = 10_000;

    fn run(target: Target) {
        target.run_short(&corpora(env!("CARGO_MANIFEST_DIR")), MUTATIONS);
    }

    #[test]
    fn commands() {
        run(COMMAND);
    }

    #[test]
    fn layouts() {
        run(LAYOUT);
    }

    #[test]
    fn snapshots() {
        run(SNAPSHOT);
    }

    #[test]
    #[ignore = "writes the corpus: `just fuzz-seeds`"]
    fn write_seeds() {
        for target in [COMMAND, LAYOUT, SNAPSHOT] {
            target.write_seeds(&corpora(env!("CARGO_MANIFEST_DIR"))).expect("the corpus can be written");
        }
    }
}
