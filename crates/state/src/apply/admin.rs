//! Keys, aliases and limits (`docs/api.md` sections 3 and 7). They live in the `values` group alone.
//!
//! Where a command names a key, it means an entity key: an alias's hash or id is as unknown there as any other. Who
//! holds only an alias asks [`Reader::entity_by_alias`](crate::query::Reader::entity_by_alias) first; so nobody ends or
//! changes a tenant who meant one of its aliases.

use storage::Transaction;

use crate::{
    bounds::ALIASES_MAX,
    command::{Admin, KeyRef},
    ids::{ApiKeyHash, ApiKeyId, Keyspace, ScopeId},
    keys::LimitsPatch,
    layout::{self, AliasRow, Credential, Deletion, EntityRow},
    outcome::{Done, Fault, Rejection},
    rows::{Rows, Stop},
    usage::{Account, Opened},
};

pub(super) fn apply<T: Transaction>(
    rows: &mut Rows<T>,
    keyspace: Keyspace,
    admin: &Admin,
    now_unix_ms: u64,
) -> Result<Done, Stop> {
    if keyspace != Keyspace::Values {
        return Err(Rejection::WrongGroup.into());
    }
    match admin {
        Admin::CreateKey { id, scope, hash, name, limits, expires_at_unix_ms } => {
            let entity = EntityRow {
                scope: *scope,
                hash: *hash,
                name: name.clone(),
                expires_at_unix_ms: *expires_at_unix_ms,
                created_at_unix_ms: now_unix_ms,
                aliases: Vec::new(),
            };
            create_key(rows, *id, &entity, Account { limits: Some(*limits), ..Account::default() })
        }
        Admin::DeleteKey(key) => delete_key(rows, key),
        Admin::SetLimits(key, patch) => set_limits(rows, key, *patch),
        Admin::CreateAlias { owner, id, hash } => create_alias(rows, *owner, *id, *hash),
        Admin::DeleteAlias { owner, alias } => delete_alias(rows, *owner, alias),
    }
}

fn create_key<T: Transaction>(
    rows: &mut Rows<T>,
    id: ApiKeyId,
    entity: &EntityRow,
    account: Account,
) -> Result<Done, Stop> {
    let scope_in_use = entity.scope == ScopeId::ROOT
        || rows.contains(&layout::account_key(entity.scope))?
        || rows.contains(&layout::deletion_key(entity.scope))?;
    if scope_in_use || id_in_use(rows, id, &entity.hash)? {
        return Err(Rejection::IdInUse.into());
    }
    Opened::new(entity.scope, account).store(rows)?;
    rows.store(&layout::entity_key(id), entity)?;
    rows.store(&layout::credential_key(&entity.hash), &Credential { id, alias_of: None })?;
    rows.count_entity_made();
    Ok(Done::Accepted)
}

fn id_in_use<T: Transaction>(rows: &Rows<T>, id: ApiKeyId, hash: &ApiKeyHash) -> Result<bool, Fault> {
    Ok(id == ApiKeyId::ROOT
        || rows.contains(&layout::entity_key(id))?
        || rows.contains(&layout::alias_key(id))?
        || rows.contains(&layout::credential_key(hash))?)
}

/// Ends the key and its aliases at once; its data goes in later steps, which `cleanup.rs` takes.
fn delete_key<T: Transaction>(rows: &mut Rows<T>, key: &KeyRef) -> Result<Done, Stop> {
    let (id, entity) = find_entity(rows, key)?;
    for alias in &entity.aliases {
        forget_alias(rows, *alias)?;
    }
    rows.discard(&layout::credential_key(&entity.hash))?;
    rows.discard(&layout::entity_key(id))?;
    rows.count_entity_ended(entity.scope)?;

    let mut opened = account_of(rows, entity.scope)?;
    opened.account.closed = true;
    opened.store(rows)?;
    rows.store(&layout::deletion_key(entity.scope), &Deletion::default())?;
    Ok(Done::KeyDeleted { scope: entity.scope })
}

fn set_limits<T: Transaction>(rows: &mut Rows<T>, key: &KeyRef, patch: LimitsPatch) -> Result<Done, Stop> {
    let (_, entity) = find_entity(rows, key)?;
    let mut opened = account_of(rows, entity.scope)?;
    opened.account.limits = opened.account.limits.map(|limits| patch.apply(limits));
    opened.store(rows)?;
    Ok(Done::Accepted)
}

fn create_alias<T: Transaction>(
    rows: &mut Rows<T>,
    owner: ApiKeyId,
    id: ApiKeyId,
    hash: ApiKeyHash,
) -> Result<Done, Stop> {
    let (_, mut entity) = find_entity(rows, &KeyRef::Id(owner))?;
    if entity.aliases.len() >= ALIASES_MAX {
        return Err(Rejection::TooManyAliases.into());
    }
    if id_in_use(rows, id, &hash)? {
        return Err(Rejection::IdInUse.into());
    }
    entity.aliases.push(id);
    rows.store(&layout::entity_key(owner), &entity)?;
    rows.store(&layout::alias_key(id), &AliasRow { hash, owner })?;
    rows.store(&layout::credential_key(&hash), &Credential { id, alias_of: Some(owner) })?;
    Ok(Done::Accepted)
}

fn delete_alias<T: Transaction>(rows: &mut Rows<T>, owner: ApiKeyId, alias: &KeyRef) -> Result<Done, Stop> {
    let (_, mut entity) = find_entity(rows, &KeyRef::Id(owner))?;
    let id = match alias {
        KeyRef::Id(id) => *id,
        KeyRef::Hash(hash) => credential(rows, hash)?.id,
    };
    let alias: AliasRow = rows.load(&layout::alias_key(id))?.ok_or(Rejection::NoSuchKey)?;
    if alias.owner != owner {
        return Err(Rejection::NotItsAlias.into());
    }
    forget_alias(rows, id)?;
    entity.aliases.retain(|listed| *listed != id);
    rows.store(&layout::entity_key(owner), &entity)?;
    Ok(Done::KeyDeleted { scope: entity.scope })
}

/// Removes an alias's rows; its owner's list is the caller's.
fn forget_alias<T: Transaction>(rows: &mut Rows<T>, id: ApiKeyId) -> Result<(), Fault> {
    if let Some(alias) = rows.load::<AliasRow>(&layout::alias_key(id))? {
        rows.discard(&layout::credential_key(&alias.hash))?;
        rows.discard(&layout::alias_key(id))?;
    }
    Ok(())
}

fn find_entity<T: Transaction>(rows: &Rows<T>, key: &KeyRef) -> Result<(ApiKeyId, EntityRow), Stop> {
    let id = match key {
        KeyRef::Id(id) => *id,
        KeyRef::Hash(hash) => credential(rows, hash)?.id, // an alias's id finds no entity
    };
    let entity = rows.load(&layout::entity_key(id))?.ok_or(Rejection::NoSuchKey)?;
    Ok((id, entity))
}

fn credential<T: Transaction>(rows: &Rows<T>, hash: &ApiKeyHash) -> Result<Credential, Stop> {
    Ok(rows.load(&layout::credential_key(hash))?.ok_or(Rejection::NoSuchKey)?)
}

/// The account of an entity's scope, which exists as long as the entity does.
fn account_of<T: Transaction>(rows: &Rows<T>, scope: ScopeId) -> Result<Opened, Fault> {
    Opened::find(rows, scope)?.ok_or(Fault::Unbalanced { scope })
}
