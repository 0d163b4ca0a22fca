//! Rows of a [`Floor`](super::Floor) in the order of their keys.

use super::{Held, RawBytes, Store};
use crate::{
    disk::row::Opened,
    engine::{Bytes, Result},
};

/// What a scan finds: a key and its value.
pub(in crate::disk) type Found = (Bytes, Held);

/// Rows of the floor in ascending order. It ends after an error.
pub(in crate::disk) struct FloorScan<'a> {
    rows: Option<redb::Range<'static, RawBytes, RawBytes>>,
    /// What was read and not taken yet.
    ahead: Option<Result<Found>>,
    store: &'a Store,
}

impl<'a> FloorScan<'a> {
    /// Over what redb has for a range; an error of that is the first thing that is found.
    pub(super) fn new(rows: Result<redb::Range<'static, RawBytes, RawBytes>>, store: &'a Store) -> Self {
        match rows {
            Ok(rows) => Self { rows: Some(rows), ahead: None, store },
            Err(error) => Self { rows: None, ahead: Some(Err(error)), store },
        }
    }

    /// What comes next.
    pub(in crate::disk) fn peek(&mut self) -> Option<&Result<Found>> {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        self.ahead.as_ref()
    }

    /// Leaves out up to `most` rows, those of lesser keys than `below` when there is one, and answers how many. They are checked
    /// as others are, but not copied.
    pub(in crate::disk) fn pass(&mut self, most: u64, below: Option<&[u8]>) -> Result<u64> {
        let is_below = |key: &[u8]| below.is_none_or(|below| key < below);
        let mut passed = 0;
        let may_pass = |row: &mut Result<Found>| row.as_ref().map_or(true, |(key, _)| is_below(key));
        if most > 0
            && let Some(row) = self.ahead.take_if(may_pass)
        {
            row?;
            passed = 1;
        }
        let (None, Some(rows)) = (&self.ahead, &mut self.rows) else { return Ok(passed) };
        let stopped_at = self.store.guarded(|| {
            while passed < most {
                let Some(row) = rows.next() else { return Ok(None) };
                let (key, sealed) = row.map_err(|error| self.store.error("read", error))?;
                let opened = self.store.opened(key.value(), sealed.value())?;
                if !is_below(key.value()) {
                    return Ok(Some(found(key.value(), &opened, sealed.value())));
                }
                passed += 1;
            }
            Ok(None)
        });
        // As `read` does: what has come to its end, or has failed, is asked no more.
        if passed < most && !matches!(stopped_at, Ok(Some(_))) {
            self.rows = None;
        }
        self.ahead = stopped_at?.map(Ok);
        Ok(passed)
    }

    fn read(&mut self) -> Option<Result<Found>> {
        let rows = self.rows.as_mut()?;
        let row = self.store.guarded(|| match rows.next() {
            Some(Ok((key, sealed))) => {
                let opened = self.store.opened(key.value(), sealed.value())?;
                Ok(Some(found(key.value(), &opened, sealed.value())))
            }
            Some(Err(error)) => Err(self.store.error("read", error)),
            None => Ok(None),
        });
        if !matches!(row, Ok(Some(_))) {
            self.rows = None;
        }
        row.transpose()
    }
}

impl Iterator for FloorScan<'_> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        self.ahead.take().or_else(|| self.read())
    }
}

fn found(key: &[u8], opened: &Opened<'_>, sealed: &[u8]) -> Found {
    let held = match opened {
        Opened::Whole(value) => Held::Whole((*value).into()),
        Opened::Cut(_) => Held::Cut(sealed.into()),
    };
    (key.into(), held)
}
