//! The tables of rows and pieces, as a transaction writes them.

use redb::{Table, TableDefinition, TableError, WriteTransaction};

use super::RawBytes;
use crate::disk::{
    pieces,
    row::{self, Cut, Opened},
};

pub(super) const ROWS: TableDefinition<'static, RawBytes, RawBytes> = TableDefinition::new("rows");

/// What rows that were cut leave out. A file that was never written since there are pieces has no such table.
pub(super) const PIECES: TableDefinition<'static, RawBytes, RawBytes> = TableDefinition::new("pieces");

/// The tables of a transaction.
pub(super) struct Tables<'t> {
    rows: Table<'t, RawBytes, RawBytes>,
    pieces: Table<'t, RawBytes, RawBytes>,
    /// A row as it is going to be written.
    sealed: Vec<u8>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> std::result::Result<Self, TableError> {
        let (rows, pieces) = (transaction.open_table(ROWS)?, transaction.open_table(PIECES)?);
        Ok(Self { rows, pieces, sealed: Vec::new() })
    }

    /// Sets a row, or removes it, and the pieces that belong to it. None when the row that was there is not what was written: how
    /// many pieces it had is then known to nobody.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> std::result::Result<Option<()>, redb::StorageError> {
        let (cut, former) = match value {
            Some(value) => {
                let (cut, tail) = pieces::cut(key, value);
                if cut.is_empty() {
                    row::seal(key, value, &mut self.sealed);
                } else {
                    let pieces = u32::try_from(cut.len()).expect("a value has fewer pieces than bytes");
                    let checksum = row::checksum(key, value);
                    let head = Cut { pieces, value_bytes: value.len() as u64, checksum, tail };
                    row::seal_cut(key, &head, &mut self.sealed);
                }
                (cut, self.rows.insert(key, &*self.sealed)?)
            }
            None => (Vec::new(), self.rows.remove(key)?),
        };
        let former_pieces = match former.as_ref().map(|former| row::open(key, former.value())) {
            None | Some(Some(Opened::Whole(_))) => 0,
            Some(Some(Opened::Cut(former))) => former.pieces as usize,
            Some(None) => return Ok(None),
        };
        drop(former);
        for (piece, key) in cut.iter().zip(pieces::keys(key)) {
            self.pieces.insert(&*key, *piece)?;
        }
        for key in pieces::keys(key).take(former_pieces).skip(cut.len()) {
            self.pieces.remove(&*key)?;
        }
        Ok(Some(()))
    }
}
