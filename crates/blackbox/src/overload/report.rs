//! What came of it, and whether it may be so.

use std::{fmt, time::Duration};

use super::{Bounds, Fate, Neighbours, Nuisance, Sight, Tally};

/// One round of load.
#[derive(Clone, Debug)]
pub struct Round {
    /// How long each part took.
    pub time: Duration,
    /// How many connections there were, of all kinds.
    pub connections: usize,
    /// What was asked for in a second.
    pub offered: f64,
    /// The closed loop before the load.
    pub before: Tally,
    /// The open loop.
    pub load: Tally,
    /// The closed loop behind it.
    pub after: Tally,
    /// What became of the nuisances.
    pub fates: std::collections::BTreeMap<Nuisance, Fate>,
    /// What an operator saw meanwhile.
    pub sight: Sight,
    /// Bytes of memory of each node: before, at most, and the bound.
    pub memory: Vec<(u64, u64, u64)>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many nodes there were.
    pub nodes: usize,
    /// What must hold.
    pub bounds: Bounds,
    /// The rounds of load.
    pub rounds: Vec<Round>,
    /// The rounds with two tenants.
    pub neighbours: Vec<Neighbours>,
}

#[allow(clippy::cast_precision_loss, reason = "no round has as many requests")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

const MIB: u64 = 1 << 20;

impl Round {
    /// How fast the nodes are behind the load, as a part of what they were before it.
    #[must_use]
    pub fn speed(&self) -> f64 {
        per_second(self.after.accepted.count(), self.time)
            / per_second(self.before.accepted.count(), self.time).max(1.0)
    }

    fn violations(&self, bounds: &Bounds) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                found.push(what);
            }
        };
        for (idle, peak, bound) in &self.memory {
            check(peak <= bound, format!("memory: {} MiB, {} before, may be {}", peak / MIB, idle / MIB, bound / MIB));
        }
        let accepted = self.load.accepted.permille(990);
        check(self.load.accepted.count() > 0, "nothing is served under load".to_owned());
        check(accepted <= bounds.accepted_p99_max, format!("p99 of what is served: {:.0} ms", ms(accepted)));
        let refused = self.load.refused.permille(990);
        check(refused <= bounds.refused_p99_max, format!("p99 of refusals: {:.0} ms", ms(refused)));
        for (part, tally) in [("before", &self.before), ("under load", &self.load), ("behind", &self.after)] {
            let odd = tally.odd_count();
            check(odd == 0, format!("{odd} answers {part} are neither 200, 429 nor 503: {:?}", tally.statuses));
            check(tally.unanswered == 0, format!("{} requests {part} are not answered", tally.unanswered));
        }
        let huge = self.fates.get(&Nuisance::HugeBody).map(|fate| &fate.statuses);
        let odd: Vec<_> = huge.into_iter().flatten().filter(|(it, _)| !matches!(it, 200 | 400 | 429 | 503)).collect();
        check(odd.is_empty(), format!("huge bodies are answered {odd:?}"));
        let Sight { failed, last_failure, slowest, leaderships, files, .. } = &self.sight;
        check(*failed == 0, format!("{failed} probes failed: {last_failure}"));
        check(*slowest <= bounds.probe_max, format!("a probe took {:.0} ms", ms(*slowest)));
        check(leaderships.len() == 1, format!("leaderships: {leaderships:?}"));
        check(*files >= self.connections, format!("{files} files were open: there were not as many connections"));
        found
    }
}

impl Report {
    /// The median of [`Round::speed`].
    #[must_use]
    pub fn speed(&self) -> f64 {
        let mut speeds: Vec<f64> = self.rounds.iter().map(Round::speed).collect();
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied().unwrap_or(1.0)
    }

    /// What is not as it must be. Nothing: all is well.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (number, round) in self.rounds.iter().enumerate() {
            found.extend(round.violations(&self.bounds).into_iter().map(|it| format!("round {}: {it}", number + 1)));
        }
        if self.speed() < self.bounds.speed_min {
            found.push(format!("behind the load the nodes do {:.2} of what they did before", self.speed()));
        }
        for neighbours in &self.neighbours {
            let [alone, with_it, _] = neighbours.medians();
            let Bounds { neighbour_factor_max, neighbour_slack, .. } = self.bounds;
            if with_it > alone.mul_f64(neighbour_factor_max) + neighbour_slack {
                let (verb, factor) = (neighbours.verb, neighbours.factor());
                found.push(format!("a neighbour makes a tenant's p99 of {verb:?} {factor:.2} times as long"));
            }
            let limited = neighbours.noisy.statuses.get(&429).copied().unwrap_or(0);
            if limited * 10 < neighbours.noisy.answered_count() * 9 {
                found.push(format!("the noisy neighbour was not limited: {:?}", neighbours.noisy.statuses));
            }
            if neighbours.quiet.statuses.keys().any(|status| *status != 200) {
                found.push(format!("the quiet tenant was answered {:?}", neighbours.quiet.statuses));
            }
        }
        found
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} node(s)", self.nodes)?;
        for (number, round) in self.rounds.iter().enumerate() {
            writeln!(f, "round {}, parts of {:?}", number + 1, round.time)?;
            write!(f, "{round}")?;
        }
        for neighbours in &self.neighbours {
            writeln!(f, "{neighbours}")?;
        }
        match self.violations().as_slice() {
            [] => write!(f, "all bounds hold"),
            found => write!(f, "NOT AS IT MUST BE\n  {}", found.join("\n  ")),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, load, after, .. } = self;
        let rate = |tally: &Tally| per_second(tally.accepted.count(), self.time);
        let line = |tally: &Tally| format!("{:.0}/s, p99 {:.1} ms", rate(tally), ms(tally.accepted.permille(990)));
        writeln!(f, "  before: {}; behind: {}, {:.2} of it", line(before), line(after), self.speed())?;
        let offered = self.offered * self.time.as_secs_f64();
        writeln!(
            f,
            "  load: {} connections, {:.0}/s asked for, {:.0}% of them unsent for want of a free connection",
            self.connections,
            self.offered,
            100.0 * per_second(usize::try_from(load.unsent).unwrap_or(0), Duration::from_secs(1)) / offered
        )?;
        let times = |times: &super::Times| {
            let at = |permille| ms(times.permille(permille));
            format!("{}, p50 {:.0} p99 {:.0} max {:.0} ms", times.count(), at(500), at(990), at(1_000))
        };
        writeln!(f, "    served {:.0}/s: {} from when due", rate(load), times(&load.accepted))?;
        writeln!(
            f,
            "    refused: {} from when sent; {:?}, {} broken",
            times(&load.refused),
            load.statuses,
            load.broken
        )?;
        for (kind, Fate { connections, ended, refused, statuses }) in &self.fates {
            write!(f, "    {kind}: {connections} connections, {ended} ended by the node, {refused} not made")?;
            if !statuses.is_empty() {
                write!(f, ", {statuses:?}")?;
            }
            writeln!(f)?;
        }
        for (idle, peak, bound) in &self.memory {
            writeln!(f, "    memory {} MiB before, {} at most; bound {}", idle / MIB, peak / MIB, bound / MIB)?;
        }
        let Sight { answered, failed, slowest, leaderships, files, .. } = &self.sight;
        writeln!(
            f,
            "    operator: {answered} answers, the slowest {:.0} ms, {failed} failed; {files} files open; {}",
            ms(*slowest),
            leaderships.iter().cloned().collect::<Vec<_>>().join(" THEN ")
        )
    }
}
