//! The rows under change: an engine's transaction with the state's hash and totals, which every row passes through.

use storage::{Bytes, KeyRange, Row, Transaction};

use crate::{
    applied::Totals,
    hash::StateHash,
    ids::ScopeId,
    layout::{self, Record},
    outcome::{Fault, Rejection},
    usage::Usage,
};

/// Why a command went no further.
pub(crate) enum Stop {
    /// It is refused, and changed nothing.
    Refused(Rejection),
    /// It could not be decided.
    Failed(Fault),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<storage::Error> for Stop {
    fn from(error: storage::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// One transaction's rows.
pub(crate) struct Rows<T: Transaction> {
    transaction: T,
    hash: StateHash,
    totals: Totals,
}

/// A point to come back to.
pub(crate) struct Savepoint<T: Transaction> {
    transaction: T::Savepoint,
    hash: StateHash,
    totals: Totals,
}

impl<T: Transaction> Rows<T> {
    pub(crate) fn new(transaction: T, hash: StateHash, totals: Totals) -> Self {
        Self { transaction, hash, totals }
    }

    pub(crate) fn hash(&self) -> StateHash {
        self.hash
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The rows as they are now, to look at.
    pub(crate) fn read(&self) -> &T {
        &self.transaction
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.transaction.get(key)?)
    }

    pub(crate) fn load<R: Record>(&self, key: &[u8]) -> Result<Option<R>, Fault> {
        layout::load(&self.transaction, key)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Fault> {
        layout::contains(&self.transaction, key)
    }

    pub(crate) fn scan(&self, range: KeyRange) -> impl Iterator<Item = storage::Result<Row>> + '_ {
        self.transaction.scan(range)
    }

    /// Sets a row whose present value, `old`, the caller has read.
    pub(crate) fn replace(&mut self, key: &[u8], old: Option<&[u8]>, new: &[u8]) {
        if let Some(old) = old {
            self.hash.remove(key, old);
        }
        self.hash.insert(key, new);
        self.transaction.put(key, new);
    }

    /// Removes a row whose present value, `old`, the caller has read.
    pub(crate) fn remove(&mut self, key: &[u8], old: &[u8]) {
        self.hash.remove(key, old);
        self.transaction.delete(key);
    }

    /// Sets a record, whether it exists or not.
    pub(crate) fn store<R: Record>(&mut self, key: &[u8], record: &R) -> Result<(), Fault> {
        let old = self.get(key)?;
        self.replace(key, old.as_deref(), &layout::encode(record));
        Ok(())
    }

    /// Removes a row, if it exists.
    pub(crate) fn discard(&mut self, key: &[u8]) -> Result<(), Fault> {
        if let Some(old) = self.get(key)? {
            self.remove(key, &old);
        }
        Ok(())
    }

    /// Brings a scope's change of usage into the totals.
    pub(crate) fn count(&mut self, scope: ScopeId, before: Usage, after: Usage) -> Result<(), Fault> {
        let moved = |total: u64, before: u64, after: u64| {
            let rest = total.checked_sub(before).and_then(|rest| rest.checked_add(after));
            rest.ok_or(Fault::Unbalanced { scope })
        };
        self.totals.bytes = moved(self.totals.bytes, before.bytes, after.bytes)?;
        self.totals.keys = moved(self.totals.keys, before.keys, after.keys)?;
        Ok(())
    }

    /// One more entity key.
    pub(crate) fn count_entity_made(&mut self) {
        self.totals.entities += 1;
    }

    /// One entity key less, whose scope is `scope`.
    pub(crate) fn count_entity_ended(&mut self, scope: ScopeId) -> Result<(), Fault> {
        self.totals.entities = self.totals.entities.checked_sub(1).ok_or(Fault::Unbalanced { scope })?;
        Ok(())
    }

    pub(crate) fn savepoint(&self) -> Savepoint<T> {
        Savepoint { transaction: self.transaction.savepoint(), hash: self.hash, totals: self.totals }
    }

    pub(crate) fn rollback(&mut self, savepoint: Savepoint<T>) {
        self.transaction.rollback(savepoint.transaction);
        self.hash = savepoint.hash;
        self.totals = savepoint.totals;
    }

    /// Writes the applied row, which the hash leaves out, and commits.
    pub(crate) fn commit(mut self, applied: &[u8]) -> Result<(), Fault> {
        self.transaction.put(&layout::APPLIED_KEY, applied);
        Ok(self.transaction.commit()?)
    }
}
