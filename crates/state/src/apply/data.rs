//! Tenants' writes, in either store (`docs/api.md` sections 1 and 4): one code path, so that the two cannot drift apart.
//!
//! 1. The scope's account says whether it takes writes, what it uses, and, in the Value Store, its quota. The key that
//!    asked must exist still: in the Value Store it is looked for, in the Cache the scope's fence stands for it.
//! 2. Each write reads its row, checks its condition, and charges the account with the difference in size.
//! 3. A refusal takes back what earlier writes of the command did.
//! 4. The account goes back in the same transaction, once for all of the scope's commands that follow each other in an entry:
//!    nothing else looks at it in between.

use std::str;

use storage::{Bytes, Read, Transaction};

use crate::{
    command::{Condition, Data, Write},
    ids::{ApiKeyId, Keyspace, ScopeId},
    kv::Key,
    layout,
    outcome::{DataOutcome, Fault, Rejection},
    rows::{Rows, Stop},
    usage::{Account, Opened, Usage, size_bytes},
};

/// Commands of one scope that follow each other, and its account meanwhile. Then it is [closed](Run::close).
#[must_use = "what it charged the account with is lost unless it is closed"]
pub(super) struct Run {
    keyspace: Keyspace,
    scope: ScopeId,
    opened: Option<Opened>,
    /// Who was found to exist last.
    known: Option<ApiKeyId>,
}

impl Run {
    /// Begins with what the scope's account says.
    pub(super) fn open<T: Transaction>(rows: &Rows<T>, keyspace: Keyspace, scope: ScopeId) -> Result<Self, Fault> {
        Ok(Self { keyspace, scope, opened: Opened::find(rows, scope)?, known: None })
    }

    /// The scope.
    pub(super) fn scope(&self) -> ScopeId {
        self.scope
    }

    /// One command of the scope; `control_index`: see [`crate::command::Admitted`].
    pub(super) fn apply<T: Transaction>(
        &mut self,
        rows: &mut Rows<T>,
        data: &Data,
        control_index: u64,
    ) -> Result<DataOutcome, Fault> {
        let revision_before = self.opened.as_ref().map_or(0, |opened| opened.account.usage.revision);
        match self.write_all(rows, data, control_index) {
            Ok((revision, sum)) => Ok(DataOutcome { revision, result: Ok(sum) }),
            Err(Stop::Refused(rejection)) => Ok(DataOutcome { revision: revision_before, result: Err(rejection) }),
            Err(Stop::Failed(fault)) => Err(fault),
        }
    }

    /// Puts the account back.
    pub(super) fn close<T: Transaction>(self, rows: &mut Rows<T>) -> Result<(), Fault> {
        self.opened.map_or(Ok(()), |opened| opened.store_changed(rows))
    }

    /// Does all writes or none. Answers the scope's revision and the new value where the last write was a bump.
    fn write_all<T: Transaction>(
        &mut self,
        rows: &mut Rows<T>,
        data: &Data,
        control_index: u64,
    ) -> Result<(u64, Option<i64>), Stop> {
        let keyspace = self.keyspace;
        let opened = admit(rows, keyspace, self.scope, &mut self.opened)?;
        // In the Value Store one look is enough: whatever ends a key is no data command, and so ends the run.
        if keyspace == Keyspace::Cache || self.known != Some(data.api_key) {
            check_caller(rows.read(), keyspace, data, control_index)?;
            self.known = Some(data.api_key);
        }
        write_under(rows, keyspace, data, opened)
    }
}

/// Does all writes under the account or none.
fn write_under<T: Transaction>(
    rows: &mut Rows<T>,
    keyspace: Keyspace,
    data: &Data,
    opened: &mut Opened,
) -> Result<(u64, Option<i64>), Stop> {
    let before = opened.account.usage;
    let mut writer = Writer {
        keyspace,
        scope: data.scope,
        quota_bytes: opened.account.quota_bytes(keyspace, data.quota_bytes),
        usage: before,
    };
    // A refused write has changed nothing itself, so that the usual single write needs no way back.
    let savepoint = (data.writes.len() > 1).then(|| rows.savepoint());
    let mut sum = None;
    for write in &data.writes {
        match writer.write(rows, write) {
            Ok(bumped) => sum = bumped,
            Err(stop) => {
                if let Some(savepoint) = savepoint {
                    rows.rollback(savepoint);
                }
                return Err(with_usage(stop, before));
            }
        }
    }
    opened.account.usage = writer.usage;
    Ok((writer.usage.revision, sum))
}

/// The account to write under, or a refusal when the scope is closed or was never made.
fn admit<'a, T: Transaction>(
    rows: &Rows<T>,
    keyspace: Keyspace,
    scope: ScopeId,
    opened: &'a mut Option<Opened>,
) -> Result<&'a mut Opened, Stop> {
    if opened.is_none() && takes_first_write(rows, keyspace, scope)? {
        *opened = Some(Opened::new(scope, Account::default()));
    }
    match opened {
        Some(opened) if !opened.account.closed => Ok(opened),
        Some(_) | None => Err(Rejection::ScopeGone.into()),
    }
}

/// The caller was let in some time ago, by a node that may have known less than is known now.
pub(super) fn check_caller(read: &impl Read, keyspace: Keyspace, data: &Data, control_index: u64) -> Result<(), Stop> {
    let id = data.api_key;
    let is_valid = match keyspace {
        Keyspace::Values => {
            id == ApiKeyId::ROOT
                || layout::contains(read, &layout::entity_key(id))?
                || layout::contains(read, &layout::alias_key(id))?
        }
        Keyspace::Cache if super::fence::admits(read, data.scope, control_index)? => true,
        Keyspace::Cache => return Err(Rejection::Fenced.into()),
    };
    if is_valid { Ok(()) } else { Err(Rejection::KeyGone.into()) }
}

/// Whether a scope without an account gets one by its first write. In the Value Store only the root scope does: every
/// other one is made with its key. The Cache knows no keys: every scope does that was not closed there.
fn takes_first_write<T: Transaction>(rows: &Rows<T>, keyspace: Keyspace, scope: ScopeId) -> Result<bool, Fault> {
    match keyspace {
        Keyspace::Values => Ok(scope == ScopeId::ROOT),
        Keyspace::Cache => Ok(!rows.contains(&layout::deletion_key(scope))?),
    }
}

/// A refusal for the quota tells what the scope uses, not what it would have used halfway through the command.
fn with_usage(stop: Stop, usage: Usage) -> Stop {
    match stop {
        Stop::Refused(Rejection::QuotaExceeded { quota_bytes, .. }) => {
            Rejection::QuotaExceeded { used_bytes: usage.bytes, quota_bytes }.into()
        }
        other => other,
    }
}

/// One command's writes to one scope.
struct Writer {
    keyspace: Keyspace,
    scope: ScopeId,
    quota_bytes: Option<u64>,
    usage: Usage,
}

impl Writer {
    /// Does one write, or refuses it and changes nothing.
    fn write<T: Transaction>(&mut self, rows: &mut Rows<T>, write: &Write) -> Result<Option<i64>, Stop> {
        match write {
            Write::Put { key, value, condition } => {
                let row = self.target(rows, key)?;
                row.check(condition)?;
                self.put(rows, key, row, value.as_bytes())?;
                Ok(None)
            }
            Write::Delete { key, condition } => {
                let row = self.target(rows, key)?;
                row.check(condition)?;
                self.delete(rows, key, row)?;
                Ok(None)
            }
            Write::Bump { key, delta } => {
                let row = self.target(rows, key)?;
                let sum = bump(row.value()?, *delta)?;
                self.put(rows, key, row, sum.to_string().as_bytes())?;
                Ok(Some(sum))
            }
        }
    }

    fn target<T: Transaction>(&self, rows: &Rows<T>, key: &Key) -> Result<Target, Fault> {
        Target::read(rows.read(), self.keyspace, self.scope, key)
    }

    fn put<T: Transaction>(&mut self, rows: &mut Rows<T>, key: &Key, row: Target, value: &[u8]) -> Result<(), Stop> {
        let new_bytes = size_bytes(key.as_bytes(), value);
        self.usage.replace(self.scope, row.size_bytes(key)?, Some(new_bytes), self.quota_bytes)?;
        self.advance()?;
        rows.replace(&row.key, row.stored.as_deref(), &layout::encode_value(self.usage.revision, value));
        Ok(())
    }

    fn delete<T: Transaction>(&mut self, rows: &mut Rows<T>, key: &Key, row: Target) -> Result<(), Stop> {
        let old_bytes = row.size_bytes(key)?;
        let Some(stored) = row.stored else { return Ok(()) };
        self.usage.replace(self.scope, old_bytes, None, self.quota_bytes)?;
        self.advance()?;
        rows.remove(&row.key, &stored);
        Ok(())
    }

    /// Counts an accepted write.
    fn advance(&mut self) -> Result<(), Fault> {
        self.usage.revision = self.usage.revision.checked_add(1).ok_or(Fault::Unbalanced { scope: self.scope })?;
        Ok(())
    }
}

/// The row that a write is about, as it is now.
pub(super) struct Target {
    key: Vec<u8>,
    stored: Option<Bytes>,
}

impl Target {
    pub(super) fn read(read: &impl Read, keyspace: Keyspace, scope: ScopeId, key: &Key) -> Result<Self, Fault> {
        let key = layout::value_key(keyspace, scope, key.as_bytes());
        let stored = read.get(&key)?;
        Ok(Self { key, stored })
    }

    fn value(&self) -> Result<Option<&[u8]>, Fault> {
        Ok(self.revision_and_value()?.map(|(_, value)| value))
    }

    fn size_bytes(&self, key: &Key) -> Result<Option<u64>, Fault> {
        Ok(self.value()?.map(|value| size_bytes(key.as_bytes(), value)))
    }

    fn revision_and_value(&self) -> Result<Option<(u64, &[u8])>, Fault> {
        self.stored.as_deref().map(layout::decode_value).transpose()
    }

    fn check(&self, condition: &Condition) -> Result<(), Stop> {
        self.refusal(condition)?.map_or(Ok(()), |rejection| Err(rejection.into()))
    }

    /// Why a write under this condition is refused, if it is.
    pub(super) fn refusal(&self, condition: &Condition) -> Result<Option<Rejection>, Fault> {
        let stored = self.revision_and_value()?;
        Ok(match condition {
            Condition::Always => None,
            Condition::Absent => stored.is_some().then_some(Rejection::KeyExists),
            Condition::ValueIs(expected) => {
                (stored.map(|(_, value)| value) != Some(expected.as_bytes())).then_some(Rejection::ValueDiffers)
            }
            Condition::RevisionIs(expected) => {
                (stored.map(|(revision, _)| revision) != Some(*expected)).then_some(Rejection::ValueDiffers)
            }
        })
    }
}

/// The sum that a bump stores: an absent value counts as 0, a sum below 0 becomes 0.
fn bump(stored: Option<&[u8]>, delta: i64) -> Result<i64, Rejection> {
    let value: i64 = match stored {
        None => 0,
        Some(bytes) => {
            let text = str::from_utf8(bytes).map_err(|_| Rejection::NotAnInteger)?;
            text.parse().map_err(|_| Rejection::NotAnInteger)?
        }
    };
    match value.checked_add(delta) {
        Some(sum) => Ok(sum.max(0)),
        None if delta < 0 => Ok(0), // below the least i64, and so below 0
        None => Err(Rejection::SumOutOfRange),
    }
}
