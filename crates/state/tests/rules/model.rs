//! The rules again, as plainly as they can be put: maps of vectors, no rows, no deltas. Usage is counted anew whenever
//! it is asked for.

use std::{collections::BTreeMap, str};

use state::{
    command::{Admin, Admitted, Cleanup, Command, Condition, Data, Fence, KeyRef, Write},
    ids::{ApiKeyId, Keyspace, ScopeId},
    outcome::{DataOutcome, Done, Outcome, Rejection},
    usage::Usage,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// Closed, with rows perhaps left.
    Closed,
    /// Closed, and empty.
    Purged,
}

#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    standing: Standing,
    quota_bytes: Option<u64>,
    revision: u64,
    /// Value and revision of each key.
    pub(crate) live: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

impl Tenant {
    fn new(standing: Standing, quota_bytes: Option<u64>) -> Self {
        Self { standing, quota_bytes, revision: 0, live: BTreeMap::new() }
    }

    pub(crate) fn usage(&self) -> Usage {
        let bytes = self.live.iter().map(|(key, (value, _))| (key.len() + value.len()) as u64).sum();
        Usage { bytes, keys: self.live.len() as u64, revision: self.revision }
    }

    fn write(&mut self, write: &Write, quota_bytes: Option<u64>) -> Result<Option<i64>, Rejection> {
        let before = self.usage().bytes;
        let sum = match write {
            Write::Put { key, value, condition } => {
                self.check(key.as_bytes(), condition)?;
                self.put(key.as_bytes(), value.as_bytes().to_vec());
                None
            }
            Write::Delete { key, condition } => {
                self.check(key.as_bytes(), condition)?;
                if self.live.remove(key.as_bytes()).is_some() {
                    self.revision += 1;
                }
                None
            }
            Write::Bump { key, delta } => {
                let stored = self.live.get(key.as_bytes()).map_or(b"0".as_slice(), |(value, _)| value);
                let stored: i64 =
                    str::from_utf8(stored).ok().and_then(|text| text.parse().ok()).ok_or(Rejection::NotAnInteger)?;
                let sum = (i128::from(stored) + i128::from(*delta)).max(0);
                let sum = i64::try_from(sum).map_err(|_| Rejection::SumOutOfRange)?;
                self.put(key.as_bytes(), sum.to_string().into_bytes());
                Some(sum)
            }
        };
        let after = self.usage().bytes;
        match quota_bytes {
            Some(quota_bytes) if after > before && after > quota_bytes => {
                Err(Rejection::QuotaExceeded { used_bytes: before, quota_bytes })
            }
            _ => Ok(sum),
        }
    }

    fn check(&self, key: &[u8], condition: &Condition) -> Result<(), Rejection> {
        match (condition, self.live.get(key)) {
            (Condition::Always, _) | (Condition::Absent, None) => Ok(()),
            (Condition::Absent, Some(_)) => Err(Rejection::KeyExists),
            (Condition::ValueIs(expected), Some((value, _))) if expected.as_bytes() == value => Ok(()),
            (Condition::RevisionIs(expected), Some((_, revision))) if expected == revision => Ok(()),
            (Condition::ValueIs(_) | Condition::RevisionIs(_), _) => Err(Rejection::ValueDiffers),
        }
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.revision += 1;
        self.live.insert(key.to_vec(), (value, self.revision));
    }
}

/// One group's state.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    keyspace: Keyspace,
    pub(crate) tenants: BTreeMap<ScopeId, Tenant>,
    /// The entity keys, which the random commands name by their ids only.
    pub(crate) entities: BTreeMap<ApiKeyId, ScopeId>,
    /// The Cache's fences.
    fences: BTreeMap<ScopeId, u64>,
}

impl Model {
    pub(crate) fn new(keyspace: Keyspace) -> Self {
        Self { keyspace, tenants: BTreeMap::new(), entities: BTreeMap::new(), fences: BTreeMap::new() }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        let decided = match (command, self.keyspace) {
            (Command::Data(data), _) => return Outcome::Data(self.data(data, 0)),
            (Command::Admitted(Admitted { data, control_index }), Keyspace::Cache) => {
                return Outcome::Data(self.data(data, *control_index));
            }
            (Command::Fence(fence), Keyspace::Cache) => self.fence(*fence),
            (Command::Admin(admin), Keyspace::Values) => self.admin(admin),
            (Command::Cleanup(Cleanup::CloseScope(scope)), Keyspace::Cache) => self.close(*scope),
            (Command::Cleanup(Cleanup::Purge { scope, rows_max }), _) => self.purge(*scope, *rows_max),
            (Command::Cleanup(Cleanup::Finish(scope)), Keyspace::Values) => self.finish(*scope),
            _ => Err(Rejection::WrongGroup),
        };
        decided.map_or_else(Outcome::Refused, Outcome::Done)
    }

    fn fence(&mut self, Fence { scope, control_index }: Fence) -> Result<Done, Rejection> {
        let is_open = self.tenants.get(&scope).is_none_or(|tenant| tenant.standing == Standing::Open);
        if is_open {
            let fence = self.fences.entry(scope).or_default();
            *fence = (*fence).max(control_index);
        }
        Ok(Done::Accepted)
    }

    fn data(&mut self, data: &Data, control_index: u64) -> DataOutcome {
        let revision = self.tenants.get(&data.scope).map_or(0, |tenant| tenant.revision);
        match self.writes(data, control_index) {
            Ok((revision, sum)) => DataOutcome { revision, result: Ok(sum) },
            Err(rejection) => DataOutcome { revision, result: Err(rejection) },
        }
    }

    fn writes(&mut self, data: &Data, control_index: u64) -> Result<(u64, Option<i64>), Rejection> {
        let mut tenant = match (self.tenants.get(&data.scope), self.keyspace) {
            (Some(tenant), _) if tenant.standing != Standing::Open => return Err(Rejection::ScopeGone),
            (Some(tenant), _) => tenant.clone(),
            (None, Keyspace::Values) if data.scope != ScopeId::ROOT => return Err(Rejection::ScopeGone),
            (None, _) => Tenant::new(Standing::Open, None),
        };
        if self.fences.get(&data.scope).is_some_and(|fence| control_index < *fence) {
            return Err(Rejection::Fenced);
        }
        let used_bytes = tenant.usage().bytes;
        let quota_bytes = match self.keyspace {
            Keyspace::Values => tenant.quota_bytes,
            Keyspace::Cache => data.quota_bytes,
        };
        let mut sum = None;
        for write in &data.writes {
            sum = tenant.write(write, quota_bytes).map_err(|rejection| match rejection {
                Rejection::QuotaExceeded { quota_bytes, .. } => Rejection::QuotaExceeded { used_bytes, quota_bytes },
                other => other,
            })?;
        }
        let revision = tenant.revision;
        self.tenants.insert(data.scope, tenant);
        Ok((revision, sum))
    }

    fn admin(&mut self, admin: &Admin) -> Result<Done, Rejection> {
        match admin {
            Admin::CreateKey { id, scope, limits, .. } => {
                if self.entities.contains_key(id) || self.tenants.contains_key(scope) || *scope == ScopeId::ROOT {
                    return Err(Rejection::IdInUse);
                }
                self.tenants.insert(*scope, Tenant::new(Standing::Open, Some(limits.bytes_on_disk)));
                self.entities.insert(*id, *scope);
                Ok(Done::Accepted)
            }
            Admin::DeleteKey(KeyRef::Id(id)) => {
                let scope = self.entities.remove(id).ok_or(Rejection::NoSuchKey)?;
                self.tenants.get_mut(&scope).unwrap().standing = Standing::Closed;
                Ok(Done::KeyDeleted { scope })
            }
            Admin::SetLimits(KeyRef::Id(id), patch) => {
                let scope = self.entities.get(id).ok_or(Rejection::NoSuchKey)?;
                let tenant = self.tenants.get_mut(scope).unwrap();
                tenant.quota_bytes = patch.bytes_on_disk.or(tenant.quota_bytes);
                Ok(Done::Accepted)
            }
            other => unreachable!("{other:?} is not among the random commands"),
        }
    }

    fn close(&mut self, scope: ScopeId) -> Result<Done, Rejection> {
        if scope == ScopeId::ROOT {
            return Err(Rejection::NotReady);
        }
        let tenant = self.tenants.entry(scope).or_insert_with(|| Tenant::new(Standing::Closed, None));
        if tenant.standing == Standing::Open {
            tenant.standing = Standing::Closed;
        }
        Ok(Done::Accepted)
    }

    fn purge(&mut self, scope: ScopeId, rows_max: u32) -> Result<Done, Rejection> {
        let tenant = self.tenants.get_mut(&scope).filter(|tenant| tenant.standing != Standing::Open);
        let tenant = tenant.ok_or(Rejection::NotReady)?;
        let mut rows = 0;
        while rows < rows_max && tenant.live.pop_first().is_some() {
            rows += 1;
        }
        let done = tenant.live.is_empty();
        if done {
            *tenant = Tenant::new(Standing::Purged, None);
        }
        Ok(Done::Purged { rows, done })
    }

    fn finish(&mut self, scope: ScopeId) -> Result<Done, Rejection> {
        match self.tenants.get(&scope) {
            Some(tenant) if tenant.standing == Standing::Purged => {
                self.tenants.remove(&scope);
                Ok(Done::Accepted)
            }
            _ => Err(Rejection::NotReady),
        }
    }
}
