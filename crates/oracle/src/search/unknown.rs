//! The operations without an outcome, and which of them, one after another, make the register hold what an answer needs.
//!
//! They are looked for backwards: from what is needed to what makes it, and from what that needs on, up to a write that needs
//! nothing, or to what the register holds. A chain holds none that changes nothing, and nothing before a blind write: both
//! would only use up what may be needed later.

use std::collections::{BTreeSet, HashMap};

use super::{Call, Place, need::Needs};
use crate::register::{Answer, Content, Request};

/// What an answer needs the register to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// This.
    Exactly(Content),
    /// A number up to this, where absent counts as 0: what a sum that was cut off at 0 needs.
    AtMost(i64),
    /// Anything but this.
    Not(Content),
}

impl Goal {
    /// What this answer to this request needs: one of these. Nothing is needed, or nothing helps, where there is none.
    pub(super) fn of(request: Request, answer: Answer) -> Vec<Self> {
        match (request, answer) {
            (Request::Get, Answer::Content(content)) => vec![Self::Exactly(content)],
            (Request::SetNx(_), Answer::Met(true)) => vec![Self::Exactly(None)],
            (Request::SetNx(_), Answer::Met(false)) => vec![Self::Not(None)],
            (Request::Cas { old, .. }, Answer::Met(true)) => vec![Self::Exactly(Some(old))],
            (Request::Cas { old, .. }, Answer::Met(false)) => vec![Self::Not(Some(old))],
            (Request::Bump(by), Answer::Sum(sum)) => before_bump(by, sum),
            _ => Vec::new(),
        }
    }

    fn is_met(self, content: Content) -> bool {
        match self {
            Self::Exactly(wanted) => content == wanted,
            Self::AtMost(most) => content.unwrap_or(0) <= most,
            Self::Not(unwanted) => content != unwanted,
        }
    }
}

/// What must be there for a sum to come out.
fn before_bump(by: i64, sum: i64) -> Vec<Goal> {
    match sum.checked_sub(by) {
        Some(_) if sum < 0 => Vec::new(),
        Some(most) if sum == 0 => vec![Goal::AtMost(most)],
        Some(0) => vec![Goal::Exactly(Some(0)), Goal::Exactly(None)],
        Some(before) => vec![Goal::Exactly(Some(before))],
        None => Vec::new(),
    }
}

/// How many operations of each kind have taken effect: the first called of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used(Vec<u32>);

impl Used {
    pub(super) fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

/// Of what was used, what can still be missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missed(Vec<u32>);

impl Missed {
    /// Whether the other misses all of this too.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own <= other)
    }
}

/// What a kind is when nobody asks for its value any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spent {
    /// As good as any other write.
    Write,
    /// As good as any other write where there is nothing.
    WriteWhereAbsent,
    /// Of no use.
    Nothing,
}

/// Operations without an outcome that are equal.
struct Kind {
    request: Request,
    /// In their order.
    calls: Vec<u64>,
    /// Up to where anybody asks for just this one.
    last: usize,
    spent: Spent,
}

/// Operations that take effect one after another.
pub(super) struct Chain {
    pub(super) requests: Vec<Request>,
    /// With what was used before.
    pub(super) used: Used,
}

/// All operations without an outcome, equal ones together.
pub(super) struct Unknowns {
    kinds: Vec<Kind>,
    /// Up to where a condition failed.
    last_refuted: usize,
    /// Which kinds write a value.
    writers: HashMap<Content, Vec<usize>>,
    /// Which kinds add.
    bumps: Vec<(usize, i64)>,
    /// Every number from which additions may begin.
    sources: BTreeSet<i64>,
}

impl Unknowns {
    pub(super) fn new(mut unanswered: Vec<Call>, needs: &Needs) -> Self {
        unanswered.sort_by_key(|call| call.called);
        let mut numbers: HashMap<Request, usize> = HashMap::new();
        let mut unknowns = Self {
            kinds: Vec::new(),
            last_refuted: needs.last_refuted_at_all(),
            writers: HashMap::new(),
            bumps: Vec::new(),
            sources: BTreeSet::from([0]),
        };
        for Call { called, request, .. } in unanswered {
            let number = *numbers.entry(request).or_insert_with(|| unknowns.add_kind(request, needs));
            unknowns.kinds[number].calls.push(called);
        }
        unknowns
    }

    fn add_kind(&mut self, request: Request, needs: &Needs) -> usize {
        let number = self.kinds.len();
        let (written, last, spent) = match request {
            Request::Set(value) => (Some(Some(value)), needs.last_of(value), Spent::Write),
            Request::SetNx(value) => (Some(Some(value)), needs.last_of(value), Spent::WriteWhereAbsent),
            Request::Cas { old, new } => {
                (Some(Some(new)), needs.last_of(new).max(needs.last_refuted(Some(old))), Spent::Nothing)
            }
            Request::Delete => (Some(None), usize::MAX, Spent::Nothing),
            Request::Bump(_) => (None, usize::MAX, Spent::Nothing),
            Request::Get => (None, 0, Spent::Nothing),
        };
        if let Some(written) = written {
            self.writers.entry(written).or_default().push(number);
            self.sources.extend(written);
        }
        if let Request::Bump(by) = request {
            self.bumps.push((number, by));
        }
        self.kinds.push(Kind { request, calls: Vec::new(), last, spent });
        number
    }

    /// What of `used` can be missed where the answered operations before `first` are explained. Where all that is left of
    /// some kinds is as good, it counts how many of them all were used: each was called before, so that the others of them that
    /// were called are there.
    pub(super) fn missed(&self, used: &Used, first: usize) -> Missed {
        let (mut writes, mut writes_where_absent) = (0, 0);
        let mut missed = Vec::with_capacity(used.0.len() + 2);
        for (kind, count) in self.kinds.iter().zip(&used.0) {
            match kind.spent {
                _ if kind.last > first => missed.push(*count),
                Spent::Write => writes += count,
                Spent::WriteWhereAbsent => writes_where_absent += count,
                Spent::Nothing => {}
            }
        }
        if self.last_refuted > first {
            missed.extend([writes, writes_where_absent]);
        }
        Missed(missed)
    }

    pub(super) fn none_used(&self) -> Used {
        Used(vec![0; self.kinds.len()])
    }

    /// All chains that lead from a place to where `goal` is met, of what was called up to the horizon, and how many steps it
    /// took to find them. None is missing unless the steps are more than the budget.
    pub(super) fn chains(&self, goal: Goal, place: &Place, horizon: u64, budget: usize) -> (Vec<Chain>, usize) {
        let Place { first, content, .. } = *place;
        let mut looking = Looking { unknowns: self, first, content, horizon, budget, steps: 0, found: Vec::new() };
        looking.look(goal, &mut place.used.clone(), &mut Vec::new());
        (looking.found, looking.steps)
    }
}

/// One search for chains.
struct Looking<'a> {
    unknowns: &'a Unknowns,
    /// All answered operations before this one are explained.
    first: usize,
    /// What the register holds before the chain.
    content: Content,
    horizon: u64,
    budget: usize,
    steps: usize,
    found: Vec<Chain>,
}

impl Looking<'_> {
    /// Finds what comes before `later`, which holds the chain's end, last first.
    fn look(&mut self, goal: Goal, used: &mut Used, later: &mut Vec<Request>) {
        self.steps += 1;
        if self.steps > self.budget {
            return;
        }
        if goal.is_met(self.content) {
            let requests = later.iter().rev().copied().collect();
            self.found.push(Chain { requests, used: used.clone() });
            return;
        }
        match goal {
            Goal::Exactly(wanted) => {
                for kind in self.unknowns.writers.get(&wanted).into_iter().flatten() {
                    self.write(*kind, used, later);
                }
                self.bumps(goal, used, later);
            }
            Goal::AtMost(_) => {
                for kind in 0..self.unknowns.kinds.len() {
                    let request = self.unknowns.kinds[kind].request;
                    let written = request.apply(needed(request)).0;
                    if !matches!(request, Request::Bump(_)) && goal.is_met(written) {
                        self.write(kind, used, later);
                    }
                }
                self.bumps(goal, used, later);
            }
            // It holds just what it must not: whatever changes it will do, and a chain's rest can follow the answer.
            Goal::Not(_) => self.any_change(used, later),
        }
    }

    /// Uses each operation that changes what the register holds, but of those that are as good as one another only one.
    fn any_change(&mut self, used: &mut Used, later: &mut Vec<Request>) {
        let mut spent: Vec<Spent> = Vec::new();
        for (number, kind) in self.unknowns.kinds.iter().enumerate() {
            self.steps += 1;
            let is_spent = kind.last <= self.first;
            if kind.request.apply(self.content).0 == self.content || is_spent && spent.contains(&kind.spent) {
                continue;
            }
            let before = self.found.len();
            self.with(number, used, later, |looking, used, later| looking.end(used, later));
            if is_spent && kind.spent != Spent::Nothing && self.found.len() > before {
                spent.push(kind.spent);
            }
        }
    }

    /// Uses a write that leaves what is needed, and looks for what it needs itself.
    fn write(&mut self, kind: usize, used: &mut Used, later: &mut Vec<Request>) {
        let needs = match self.unknowns.kinds[kind].request {
            Request::SetNx(_) => Some(Goal::Exactly(None)),
            Request::Cas { old, new } if old != new => Some(Goal::Exactly(Some(old))),
            Request::Cas { .. } => return,
            Request::Set(_) | Request::Delete | Request::Get | Request::Bump(_) => None,
        };
        self.with(kind, used, later, |looking, used, later| match needs {
            Some(goal) => looking.look(goal, used, later),
            None => looking.end(used, later),
        });
    }

    /// Uses each addition after which `goal` is met, where that can still be reached.
    fn bumps(&mut self, goal: Goal, used: &mut Used, later: &mut Vec<Request>) {
        let unknowns = self.unknowns;
        for (kind, by) in &unknowns.bumps {
            let before = match goal {
                Goal::Exactly(Some(sum)) => before_bump(*by, sum),
                Goal::AtMost(most) if most >= 0 => vec![Goal::AtMost(most.saturating_sub(*by))],
                Goal::Exactly(None) | Goal::AtMost(_) | Goal::Not(_) => Vec::new(),
            };
            for goal in before {
                if self.is_in_reach(goal, used) {
                    self.with(*kind, used, later, |looking, used, later| looking.look(goal, used, later));
                }
            }
        }
    }

    /// Whether the additions that are left lead from anywhere to the number that is needed.
    fn is_in_reach(&self, goal: Goal, used: &Used) -> bool {
        let Goal::Exactly(Some(wanted)) = goal else { return true };
        let (mut up, mut down) = (0_i64, 0_i64);
        for (kind, by) in &self.unknowns.bumps {
            let left = self.unknowns.kinds[*kind].calls.len() as u64 - u64::from(used.0[*kind]);
            let sum = by.saturating_mul(i64::try_from(left).unwrap_or(i64::MAX));
            (up, down) = (up.saturating_add(sum.max(0)), down.saturating_add(sum.min(0)));
        }
        let range = wanted.saturating_sub(up)..=wanted.saturating_sub(down);
        // A sum that was cut off at 0 begins anew from there.
        self.content.is_some_and(|content| range.contains(&content))
            || self.unknowns.sources.range(range).next().is_some()
    }

    fn with(
        &mut self,
        kind: usize,
        used: &mut Used,
        later: &mut Vec<Request>,
        then: impl FnOnce(&mut Self, &mut Used, &mut Vec<Request>),
    ) {
        let Kind { request, calls, .. } = &self.unknowns.kinds[kind];
        if calls.get(used.0[kind] as usize).is_some_and(|called| *called <= self.horizon) {
            used.0[kind] += 1;
            later.push(*request);
            then(self, used, later);
            later.pop();
            used.0[kind] -= 1;
        }
    }

    /// A chain that begins with what needs nothing.
    fn end(&mut self, used: &Used, later: &[Request]) {
        self.steps += 1;
        self.found.push(Chain { requests: later.iter().rev().copied().collect(), used: used.clone() });
    }
}

/// What must be there for a request to have its effect.
fn needed(request: Request) -> Content {
    match request {
        Request::Cas { old, .. } => Some(old),
        Request::Get | Request::Set(_) | Request::SetNx(_) | Request::Delete | Request::Bump(_) => None,
    }
}
