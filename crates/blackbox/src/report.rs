//! A short table of what was done, and what is wrong.

use std::{collections::BTreeMap, fmt};

use insidb_oracle::{History, Outcome, Request, Store};

use crate::{
    record::{CacheFate, Event},
    schedule::FaultKind,
};

/// What a run did, and what came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How many operations were answered, unknown and refused, by store and request.
    operations: BTreeMap<(Store, &'static str), [u64; 3]>,
    /// How many faults were made and healed, and the longest time that healing took, in milliseconds.
    faults: BTreeMap<FaultKind, (u64, u64, u64)>,
    skipped: Vec<(FaultKind, String)>,
    tenants_deleted: u64,
    quotas_moved: u64,
    cache_losses: u64,
    seed: u64,
    insid: String,
    /// What is wrong. Nothing: every check passed.
    pub violations: Vec<String>,
}

fn name(request: Request) -> &'static str {
    match request {
        Request::Get => "get",
        Request::Set(_) => "set",
        Request::SetNx(_) => "setnx",
        Request::Cas { .. } => "cas",
        Request::Delete => "delete",
        Request::Bump(_) => "bump",
    }
}

impl Report {
    pub(crate) fn new(history: &History, events: &[Event], violations: Vec<String>) -> Self {
        let mut report = Self { violations, ..Self::default() };
        for operation in history.operations() {
            let column = match operation.outcome {
                Outcome::Known { .. } => 0,
                Outcome::Unknown => 1,
                Outcome::Refused => 2,
            };
            report.operations.entry((operation.store, name(operation.request))).or_default()[column] += 1;
        }
        for event in events {
            match event {
                Event::Began { seed, insid, .. } => (report.seed, report.insid) = (*seed, insid.clone()),
                Event::Skipped { kind, why } => report.skipped.push((*kind, why.clone())),
                Event::Fault { kind, .. } => report.faults.entry(*kind).or_default().0 += 1,
                Event::Healed { kind, after_ms, cache, .. } => {
                    let (_, healed, longest) = report.faults.entry(*kind).or_default();
                    (*healed, *longest) = (*healed + 1, (*longest).max(*after_ms));
                    report.cache_losses += u64::from(*cache == CacheFate::Lost);
                }
                Event::Deleted { .. } => report.tenants_deleted += 1,
                Event::Quotas { .. } => report.quotas_moved += 1,
                _ => {}
            }
        }
        report
    }

    /// How many operations have this outcome: answered, unknown, refused.
    #[must_use]
    pub fn outcomes(&self) -> [u64; 3] {
        self.operations.values().fold([0; 3], |sum, row| [sum[0] + row[0], sum[1] + row[1], sum[2] + row[2]])
    }

    /// How many faults of a kind were made and healed.
    #[must_use]
    pub fn healed(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).map_or(0, |(_, healed, _)| *healed)
    }

    /// Why a kind of fault could not be made; none when it could.
    #[must_use]
    pub fn skipped(&self, kind: FaultKind) -> Option<&str> {
        self.skipped.iter().find(|(of, _)| *of == kind).map(|(_, why)| why.as_str())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, seed {}", self.insid, self.seed)?;
        writeln!(f, "\n{:<16}{:>10}{:>10}{:>10}", "operations", "answered", "unknown", "refused")?;
        for ((store, request), [known, unknown, refused]) in &self.operations {
            let store = match store {
                Store::Values => "vs",
                Store::Cache => "cache",
            };
            writeln!(f, "{:<16}{known:>10}{unknown:>10}{refused:>10}", format!("{store} {request}"))?;
        }
        let [known, unknown, refused] = self.outcomes();
        writeln!(f, "{:<16}{known:>10}{unknown:>10}{refused:>10}", "all")?;
        writeln!(f, "\n{:<16}{:>10}{:>10}{:>20}", "faults", "made", "healed", "slowest to heal")?;
        for (kind, (made, healed, longest)) in &self.faults {
            writeln!(f, "{:<16}{made:>10}{healed:>10}{:>20}", kind.to_string(), format!("{longest} ms"))?;
        }
        for (kind, why) in &self.skipped {
            writeln!(f, "{:<16}NOT MADE: {why}", kind.to_string())?;
        }
        writeln!(
            f,
            "\n{} tenants deleted, quotas moved {} times, the Cache lost {} times by a lost majority",
            self.tenants_deleted, self.quotas_moved, self.cache_losses
        )?;
        if self.violations.is_empty() {
            return write!(f, "\nall checks passed");
        }
        write!(f, "\n{} WRONG", self.violations.len())?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n- {violation}"))
    }
}
