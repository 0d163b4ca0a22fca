//! What a write would be refused for, as a view shows it: told without the log.
//!
//! Who waits for a lock asks for it again and again, and is refused each time. Such a refusal changes nothing, so that it
//! may be answered like a read, by whoever may answer reads. Only what is certain is told: where the write may be done, or
//! be refused for anything but its condition, the log decides.

use storage::Read;

use super::data::{Target, check_caller};
use crate::{
    command::Data,
    ids::Keyspace,
    layout,
    outcome::{DataOutcome, Fault},
    rows::Stop,
    usage::Account,
};

/// The refusal of a single write whose condition does not hold, if that is what comes of it; `control_index`: see
/// [`crate::command::Admitted`].
pub(crate) fn refusal(
    read: &impl Read,
    keyspace: Keyspace,
    data: &Data,
    control_index: u64,
) -> Result<Option<DataOutcome>, Fault> {
    let Some((key, condition)) = data.conditional() else { return Ok(None) };
    let account: Option<Account> = layout::load(read, &layout::account_key(data.scope))?;
    let Some(account) = account.filter(|account| !account.closed) else { return Ok(None) };
    match check_caller(read, keyspace, data, control_index) {
        Ok(()) => {}
        Err(Stop::Refused(_)) => return Ok(None),
        Err(Stop::Failed(fault)) => return Err(fault),
    }
    let refusal = Target::read(read, keyspace, data.scope, key)?.refusal(condition)?;
    Ok(refusal.map(|rejection| DataOutcome { revision: account.usage.revision, result: Err(rejection) }))
}
