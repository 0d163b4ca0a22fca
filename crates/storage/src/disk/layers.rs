//! What a reader sees: a layer of recent changes, perhaps one that is on its way to the disk, and the floor.

use std::{iter::Peekable, sync::Arc};

use super::floor::{Floor, FloorScan, Found, Held};
use crate::{
    engine::{Bytes, Error, KeyRange, Read, Result, Row, View},
    tree::{Change, Range, Tree},
};

/// Changes to what lies below. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    changes: Tree,
    /// Keys and values of `changes`.
    bytes: u64,
}

impl Layer {
    pub(super) fn set(&mut self, key: &[u8], change: Option<&[u8]>) {
        let key_bytes = key.len() as u64;
        self.bytes += key_bytes + change.map_or(0, |value| value.len() as u64);
        if let Some(former_bytes) = self.changes.insert(key, change) {
            self.bytes -= key_bytes + former_bytes as u64;
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (Bytes, Change)> + '_ {
        self.changes.iter()
    }

    fn scan(&self, range: &KeyRange) -> LayerScan<'_> {
        self.changes.range(range).peekable()
    }

    /// Gives its memory back bit by bit, with a `rest` behind each.
    pub(super) fn free(self, rest: &mut impl FnMut()) {
        self.changes.free(rest);
    }
}

/// The layers of one moment. Published whole, never changed.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    /// Changes since the last freeze.
    pub(super) active: Layer,
    /// Changes that a checkpoint is writing.
    pub(super) frozen: Option<Layer>,
    /// What is durable.
    pub(super) floor: Arc<Floor>,
}

impl Layers {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.change(key).map_or_else(|| self.floor.get(key), Ok)
    }

    /// What is known of `key` above the floor.
    pub(super) fn change(&self, key: &[u8]) -> Option<Change> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.changes.get(key));
        self.active.changes.get(key).or_else(frozen)
    }

    /// The rows of `range`, one after the other.
    pub(super) fn scan<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = Result<Row>> + Send + use<'a> {
        let mut rows = self.merge(range, 0);
        std::iter::from_fn(move || {
            let row = rows.next()?.and_then(|(key, held)| {
                let value = self.floor.whole(&key, held)?;
                Ok((key, value))
            });
            Some(row.inspect_err(|_| rows.end()))
        })
    }

    /// What [`Layers::scan`] goes through, without the first `offset` rows; a long value's pieces are not read.
    fn merge(&self, range: &KeyRange, offset: u64) -> Merge<'_> {
        if range.is_empty() {
            return Merge { active: None, frozen: None, floor: None, offset: 0 };
        }
        Merge {
            active: Some(self.active.scan(range)),
            frozen: self.frozen.as_ref().map(|frozen| frozen.scan(range)),
            floor: Some(self.floor.scan(range)),
            offset,
        }
    }
}

/// A view of a [`DiskEngine`](super::DiskEngine).
///
/// A view that is kept holds on to what it shows: the rows in memory, and the pages of the file, which the
/// checkpoints of its lifetime cannot reuse, so that the file grows by what they write.
#[derive(Clone, Debug)]
pub struct DiskView(pub(super) Arc<Layers>);

impl DiskView {
    /// Whether it shows what is in `floor`, and nothing else.
    pub(super) fn is_of_floor(&self, floor: &Arc<Floor>) -> bool {
        Arc::ptr_eq(&self.0.floor, floor) && self.0.frozen.is_none() && self.0.active.is_empty()
    }
}

impl Read for DiskView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.get(key)
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        self.0.scan(&range)
    }
}

impl View for DiskView {
    fn keys(&self, range: KeyRange, offset: u64) -> impl Iterator<Item = Result<Bytes>> + Send + '_ {
        self.0.merge(&range, offset).map(|row| row.map(|(key, _)| key))
    }
}

type LayerScan<'a> = Peekable<Range<'a>>;

/// The rows of all layers in ascending order, each from the highest layer that has it.
struct Merge<'a> {
    active: Option<LayerScan<'a>>,
    frozen: Option<LayerScan<'a>>,
    floor: Option<FloorScan<'a>>,
    /// How many rows to leave out first.
    offset: u64,
}

impl Iterator for Merge<'_> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        while self.offset > 0 {
            match self.pass() {
                Ok(0) => return None,
                Ok(passed) => self.offset -= passed,
                Err(error) => return self.fail(error),
            }
        }
        self.step()
    }
}

impl Merge<'_> {
    fn step(&mut self) -> Option<Result<Found>> {
        loop {
            let floor = match self.floor.as_mut().and_then(FloorScan::peek) {
                Some(Err(_)) => {
                    let error = self.floor.take()?.next()?.err()?;
                    return self.fail(error);
                }
                Some(Ok((key, _))) => Some(key),
                None => None,
            };
            let active = self.active.as_mut().and_then(Peekable::peek).map(|(key, _)| key);
            let frozen = self.frozen.as_mut().and_then(Peekable::peek).map(|(key, _)| key);
            let least = [active, frozen, floor].into_iter().flatten().min()?.clone();
            if let Some(held) = self.take(&least) {
                return Some(Ok((least, held)));
            }
        }
    }

    /// Leaves out rows, no more than `offset`, and answers how many: of the floor's at once all that come before the next row
    /// above it. Where it answers 0, none are left.
    fn pass(&mut self) -> Result<u64> {
        let active = self.active.as_mut().and_then(Peekable::peek).map(|(key, _)| key);
        let frozen = self.frozen.as_mut().and_then(Peekable::peek).map(|(key, _)| key);
        let above = [active, frozen].into_iter().flatten().min();
        let passed = match &mut self.floor {
            Some(floor) => floor.pass(self.offset, above.map(|key| &**key))?,
            None => 0,
        };
        match passed {
            0 => self.step().transpose().map(|row| u64::from(row.is_some())),
            passed => Ok(passed),
        }
    }

    /// Moves every layer past `key`, and answers what the highest of them has there; none when that is a removal.
    fn take(&mut self, key: &Bytes) -> Option<Held> {
        let floor = self.floor.as_mut().and_then(|rows| match rows.peek() {
            Some(Ok((at, _))) if at == key => rows.next(),
            _ => None,
        });
        let frozen = self.frozen.as_mut().and_then(|rows| rows.next_if(|(at, _)| at == key));
        let active = self.active.as_mut().and_then(|rows| rows.next_if(|(at, _)| at == key));
        match active.or(frozen) {
            Some((_, change)) => change.map(Held::Whole),
            None => floor.and_then(Result::ok).map(|(_, held)| held),
        }
    }

    /// Yields the floor's error, and nothing after it.
    fn fail(&mut self, error: Error) -> Option<Result<Found>> {
        self.end();
        Some(Err(error))
    }

    fn end(&mut self) {
        (self.active, self.frozen, self.floor, self.offset) = (None, None, None, 0);
    }
}
