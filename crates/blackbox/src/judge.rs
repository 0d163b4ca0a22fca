//! What is wrong with a run, by its records alone.
//!
//! | check | what must hold |
//! | --- | --- |
//! | `wrong` | nothing was seen to be wrong as it happened, and the run came to its end |
//! | `linearizable` | one order of all operations on each key explains every answer, of the Cache in each generation (`insidb-oracle`) |
//! | `once` | a write to the Value Store that was acknowledged, and that nothing overwrites, is there ever after |
//! | `sums` | a number that is only bumped is what was acknowledged, and at most what is unknown on top |
//! | `books` | in the end, each node lists just the keys that are there, in order, and tells as usage what they weigh |
//! | `stored` | in the end, no node stores anything besides: what deleted tenants had is gone |
//! | `quotas` | usage never grows above the quotas in force |
//! | `deleted` | no node answers a tenant's key after its deletion was acknowledged |
//! | `cache` | the Cache survives what it must survive, and is empty under a new generation where a majority of it was lost |
//! | `states` | in the end, all nodes have applied the same, and their states are equal |

use std::collections::{BTreeMap, BTreeSet};

use insidb_oracle::{Answer, Content, History, Operation, Outcome, Request, Store};

use crate::{
    clients::history_key,
    record::{Bytes, CacheFate, Event},
    value,
};

/// How long a change of quotas without an answer may still be under way.
const UNDER_WAY_NS: u64 = 60_000_000_000;

/// Everything that is wrong.
pub(crate) fn judge(history: &History, events: &[Event]) -> Vec<String> {
    let mut wrong = self::wrong(events);
    wrong.extend(linearizable(history, events));
    wrong.extend(once(history));
    wrong.extend(sums(history, events));
    wrong.extend(books(history, events));
    wrong.extend(stored(events));
    wrong.extend(quotas(events));
    wrong.extend(deleted(history, events));
    wrong.extend(cache(events));
    wrong.extend(states(events));
    wrong
}

/// The deletion of a tenant is a delete of each of its keys, at a moment of its own: between its call and its acknowledgement a
/// node that knows the key still may find nothing below it.
fn linearizable(history: &History, events: &[Event]) -> Option<String> {
    let mut all = History::default();
    let mut registers = BTreeMap::<&str, Vec<&Operation>>::new();
    for operation in history.operations() {
        all.push(operation.clone());
        let of_tenant = registers.entry(tenant_of(operation)).or_default();
        if !of_tenant.iter().any(|it| (it.store, &it.key) == (operation.store, &operation.key)) {
            of_tenant.push(operation);
        }
    }
    for event in events {
        let Event::Deleted { tenant, called_ns, .. } = event else { continue };
        for of_key in registers.get(tenant.as_str()).into_iter().flatten() {
            let outcome = Outcome::Unknown;
            all.push(Operation { request: Request::Delete, called_ns: *called_ns, outcome, ..(*of_key).clone() });
        }
    }
    all.check().err().map(|fault| format!("linearizable: {fault}"))
}

fn tenant_of(operation: &Operation) -> &str {
    operation.key.split('/').next().unwrap_or_default()
}

fn wrong(events: &[Event]) -> Vec<String> {
    let seen = events.iter().filter_map(|event| match event {
        Event::Wrong { at_ns, what } => Some(format!("at {} ms: {what}", at_ns / 1_000_000)),
        _ => None,
    });
    let has_ended = events.iter().any(|event| matches!(event, Event::Ended { .. }));
    seen.chain((!has_ended).then(|| "the run did not come to its end".to_owned())).collect()
}

fn known(operation: &Operation) -> Option<(u64, Answer)> {
    match operation.outcome {
        Outcome::Known { returned_ns, answer, .. } => Some((returned_ns, answer)),
        Outcome::Unknown | Outcome::Refused => None,
    }
}

fn once(history: &History) -> Vec<String> {
    let of_kind = || history.operations().iter().filter(|it| it.key.contains("/k/once/"));
    let written: BTreeMap<&str, (u64, i64)> = of_kind()
        .filter_map(|operation| match (operation.request, known(operation)) {
            (Request::SetNx(value), Some((returned_ns, Answer::Met(true)))) => {
                Some((operation.key.as_str(), (returned_ns, value)))
            }
            _ => None,
        })
        .collect();
    let is_lost = |operation: &&Operation| match (known(operation), written.get(operation.key.as_str())) {
        (Some((_, Answer::Content(content))), Some((returned_ns, value))) => {
            operation.called_ns > *returned_ns && content != Some(*value)
        }
        _ => false,
    };
    of_kind()
        .filter(is_lost)
        .map(|it| format!("once: {} was acknowledged, and then: {:?}", it.key, it.outcome))
        .collect()
}

fn sums(history: &History, events: &[Event]) -> Vec<String> {
    let read = closing_reads(history, events);
    let mut bounds: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for operation in history.operations().iter().filter(|it| it.key.ends_with("/k/sum")) {
        let Request::Bump(by) = operation.request else { continue };
        let (least, most) = bounds.entry(&operation.key).or_default();
        match operation.outcome {
            Outcome::Known { .. } => (*least, *most) = (*least + by, *most + by),
            Outcome::Unknown => *most += by,
            Outcome::Refused => {}
        }
    }
    let off = bounds.into_iter().filter_map(|(key, (least, most))| {
        let sum = read.get(&(Store::Values, key))?.unwrap_or(0);
        (!(least..=most).contains(&sum)).then(|| format!("sums: {key} is {sum}, and not {least} to {most}"))
    });
    off.collect()
}

/// What was read of each key when the cluster was at rest.
fn closing_reads<'a>(history: &'a History, events: &[Event]) -> BTreeMap<(Store, &'a str), Content> {
    let closing = events.iter().find_map(|event| match event {
        Event::Closing { at_ns } => Some(*at_ns),
        _ => None,
    });
    let reads = history.operations().iter().filter(|it| closing.is_some_and(|closing| it.called_ns >= closing));
    reads
        .filter_map(|operation| match known(operation) {
            Some((_, Answer::Content(content))) => Some(((operation.store, operation.key.as_str()), content)),
            _ => None,
        })
        .collect()
}

fn books(history: &History, events: &[Event]) -> Vec<String> {
    let read = closing_reads(history, events);
    let of_tenant = |tenant: &str, store: Store| -> BTreeMap<&str, i64> {
        let prefix = history_key(tenant, "");
        let rows = read.iter().filter(|((of, _), _)| *of == store);
        rows.filter_map(|((_, key), content)| Some((key.strip_prefix(&prefix)?, (*content)?))).collect()
    };
    let weigh = |tenant: &str, store: Store| -> u64 {
        of_tenant(tenant, store).iter().map(|(key, value)| (key.len() + value::text(*value).len()) as u64).sum()
    };
    let mut wrong = Vec::new();
    for event in events {
        match event {
            Event::Listed { tenant, store, node, keys } => {
                let live: Vec<&str> = of_tenant(tenant, *store).into_keys().collect();
                if *keys != live {
                    let (live, listed): (BTreeSet<&str>, BTreeSet<&str>) =
                        (live.into_iter().collect(), keys.iter().map(String::as_str).collect());
                    let (missing, extra): (Vec<_>, Vec<_>) =
                        (live.difference(&listed).collect(), listed.difference(&live).collect());
                    wrong.push(format!(
                        "books: node {node}, {tenant}, {store:?}: not listed {missing:?}, not there {extra:?}, or out of order"
                    ));
                }
            }
            Event::ClosingUsage { tenant, node, usage } => {
                let recount = Bytes { disk: weigh(tenant, Store::Values), memory: weigh(tenant, Store::Cache) };
                if *usage != recount {
                    wrong.push(format!("books: node {node}, {tenant}: usage {usage:?}, recount {recount:?}"));
                }
            }
            _ => {}
        }
    }
    wrong
}

fn stored(events: &[Event]) -> Vec<String> {
    let used = |of: usize| {
        events.iter().fold(Bytes::default(), |sum, event| match event {
            Event::ClosingUsage { node, usage, .. } if *node == of => {
                Bytes { disk: sum.disk + usage.disk, memory: sum.memory + usage.memory }
            }
            _ => sum,
        })
    };
    let off = events.iter().filter_map(|event| match event {
        Event::Stored { node, stored } if *stored != used(*node) => {
            Some(format!("stored: node {node} has {stored:?}, and its tenants use {:?}", used(*node)))
        }
        _ => None,
    });
    off.collect()
}

/// Quotas that may be in force, and the last usage that was seen since they are.
#[derive(Default)]
struct Quotas {
    acknowledged: Option<Bytes>,
    under_way: Vec<(u64, Bytes)>,
    last: Option<Bytes>,
}

/// Quotas are moved and looked at by one task for each tenant, so that its events stand in order.
fn quotas(events: &[Event]) -> Vec<String> {
    let mut tenants: BTreeMap<&str, Quotas> = BTreeMap::new();
    let mut wrong = Vec::new();
    for event in events {
        match event {
            Event::Quotas { tenant, called_ns, returned_ns, quotas } => {
                let known = tenants.entry(tenant).or_default();
                known.last = None;
                known.under_way.retain(|(since, _)| *called_ns < since + UNDER_WAY_NS);
                match returned_ns {
                    Some(_) => known.acknowledged = Some(*quotas),
                    None => known.under_way.push((*called_ns, *quotas)),
                }
            }
            Event::Usage { tenant, usage, called_ns, .. } => {
                let known = tenants.entry(tenant).or_default();
                let unlimited = Bytes { disk: u64::MAX, memory: u64::MAX };
                let in_force = || {
                    known.under_way.iter().map(|(_, quotas)| *quotas).chain([known.acknowledged.unwrap_or(unlimited)])
                };
                let most = |of: fn(&Bytes) -> u64| in_force().map(|quotas| of(&quotas)).max().unwrap_or(u64::MAX);
                let has_grown = |of: fn(&Bytes) -> u64| {
                    of(usage) > most(of) && known.last.as_ref().is_some_and(|last| of(usage) > of(last))
                };
                if has_grown(|bytes| bytes.disk) || has_grown(|bytes| bytes.memory) {
                    let (last, quotas): (_, Vec<Bytes>) = (known.last, in_force().collect());
                    wrong.push(format!(
                        "quotas: {tenant} at {} ms: {usage:?} after {last:?}, with quotas {quotas:?}",
                        called_ns / 1_000_000
                    ));
                }
                known.last = Some(*usage);
            }
            _ => {}
        }
    }
    wrong
}

fn deleted(history: &History, events: &[Event]) -> Vec<String> {
    let mut dead: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for event in events {
        match event {
            Event::Deleted { tenant, returned_ns, .. } => drop(dead.insert(tenant, *returned_ns)),
            Event::DeletedAnswers { tenant, node, code } if code != "unauthorized" => {
                wrong.push(format!("deleted: node {node} answers the key of {tenant} in the end: {code}"));
            }
            _ => {}
        }
    }
    for operation in history.operations() {
        if dead.get(tenant_of(operation)).is_some_and(|since| operation.called_ns > *since)
            && known(operation).is_some()
        {
            wrong.push(format!("deleted: answered after the deletion was acknowledged: {operation:?}"));
        }
    }
    wrong
}

fn cache(events: &[Event]) -> Vec<String> {
    let mut what = "";
    let mut wrong = Vec::new();
    for event in events {
        match event {
            Event::Fault { what: of, .. } => what = of,
            Event::Healed { at_ns, cache, generation_before: before, generation: after, .. } => {
                let is_right = match cache {
                    CacheFate::Kept => after == before,
                    CacheFate::Lost => after > before,
                    CacheFate::Either => after >= before,
                };
                if !is_right {
                    wrong.push(format!(
                        "cache: must be {cache:?} after {what}; generation {before} before, {after} at {} ms",
                        at_ns / 1_000_000
                    ));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// How far a member has applied, and the hash of its state.
type State<'a> = (Option<u64>, Option<&'a str>);

fn states(events: &[Event]) -> Vec<String> {
    let mut groups: BTreeMap<&str, Vec<State<'_>>> = BTreeMap::new();
    for event in events {
        if let Event::State { group, applied_index, hash, .. } = event {
            groups.entry(group).or_default().push((*applied_index, hash.as_deref()));
        }
    }
    let differ =
        |states: &[State<'_>]| states.iter().any(|state| *state != states[0] || state.0.is_none() || state.1.is_none());
    let off = groups.into_iter().filter(|(_, states)| differ(states));
    off.map(|(group, states)| format!("states: of the group {group} differ: {states:?}")).collect()
}

#[cfg(test)]
mod tests;
