//! Is a history of one register linearizable?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2017): take one operation after another that may be next by real time and whose answer fits, and never
//! visit the same place twice. A place is the set of operations that are done and the value that they left.
//!
//! What keeps it fast with thousands of operations, hundreds of them without an outcome:
//! - A read that fits is taken at once, and so is a swap that failed: wherever else it stood, it would change nothing.
//! - An operation without an outcome may take effect at any time after its call, or never. It is used only where an answer
//!   that does not fit needs it, and looked for backwards from what that answer needs (`unknown.rs`). Of equal ones only the
//!   first called is used. Having used fewer of them is never worse: a place that was reached with fewer is not visited again
//!   with more.
//! - Values that nobody asks for any more are one value, and what was used to write them is not missed (`need.rs`).
//! - It goes into the depth first, which finds an order soon where there is one. Where it does not, it goes on in breadth: all
//!   places with as many answers explained before any with more. Those are few when only what still matters tells them apart,
//!   and when none is left there is no order.
//!
//! A history that is linearizable stays so when its end is cut off. So the first answer that nothing explains is found by
//! halving, and the excerpt is what lies around it.

mod need;
mod unknown;

use std::collections::{BTreeMap, HashMap};

use self::{
    need::Needs,
    unknown::{Goal, Missed, Unknowns, Used},
};
use crate::{
    fault::Finding,
    operation::{Operation, Outcome},
    register::{Answer, Content, Request},
};

/// Steps that the search takes into the depth, before it goes in breadth.
const DEPTH_STEPS_MAX: usize = 400_000;
/// Steps that it takes in breadth, before it says that it cannot tell.
const BREADTH_STEPS_MAX: usize = 40_000_000;
/// Places that it remembers at a time at most, for the same.
const PLACES_MAX: usize = 400_000;
/// The most operations of an excerpt that were answered before the one that nothing explains was called.
const BEFORE_MAX: usize = 8;
/// The most of the others.
const AROUND_MAX: usize = 16;

/// An operation of the register: when it was called, and when and what it was answered, if it was.
#[derive(Clone, Copy, Debug)]
struct Call {
    called: u64,
    request: Request,
    returned: Option<(u64, Answer)>,
}

/// An answered one.
#[derive(Clone, Copy, Debug)]
struct Answered {
    called: u64,
    returned: u64,
    request: Request,
    answer: Answer,
}

/// Checks the operations of one register, which is absent at its beginning.
pub(crate) fn check(operations: &[&Operation]) -> Result<(), Finding> {
    let calls: Vec<Call> = operations.iter().filter_map(|operation| call(operation)).collect();
    match decide(&calls) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided => Err(Finding::Undecided { operations: operations.len() }),
        Verdict::Not(stuck) => Err(explain(operations, &calls, stuck)),
    }
}

fn call(operation: &Operation) -> Option<Call> {
    let returned = match operation.outcome {
        Outcome::Known { returned_ns, answer, .. } => Some((returned_ns, answer)),
        Outcome::Unknown => None,
        Outcome::Refused => return None,
    };
    // A read without an answer says nothing.
    (returned.is_some() || !operation.request.is_read()).then_some(Call {
        called: operation.called_ns,
        request: operation.request,
        returned,
    })
}

/// Finds the shortest beginning of the history that has no order.
fn explain(operations: &[&Operation], calls: &[Call], stuck: Stuck) -> Finding {
    let mut ends: Vec<u64> = calls.iter().filter_map(|call| call.returned.map(|(at, _)| at)).collect();
    ends.sort_unstable();
    ends.dedup();
    let mut holds = stuck.holds;
    // All ends before `good` have an order, and `bad` has none. One that cannot be decided counts as having one.
    let (mut good, mut bad) = (0, ends.len() - 1);
    // The furthest place is most often stuck at the end that is looked for.
    let mut guesses = vec![stuck.returned, ends[ends.partition_point(|end| *end < stuck.returned).saturating_sub(1)]];
    while good < bad {
        let guess = guesses.pop().map(|end| ends.partition_point(|it| *it < end)).filter(|at| (good..bad).contains(at));
        let middle = guess.unwrap_or(usize::midpoint(good, bad));
        match decide(&until(calls, ends[middle])) {
            Verdict::Not(stuck) => (bad, holds) = (middle, stuck.holds),
            Verdict::Linearizable | Verdict::Undecided => good = middle + 1,
        }
    }
    let end = ends[bad];
    let returned = |operation: &Operation| match operation.outcome {
        Outcome::Known { returned_ns, .. } => Some(returned_ns),
        Outcome::Unknown | Outcome::Refused => None,
    };
    let first = operations.iter().find(|it| returned(it) == Some(end)).expect("an end is the return of an operation");
    let relevant = operations.iter().filter(|it| it.called_ns <= end && **it != *first && call(it).is_some());
    let (mut before, mut around): (Vec<&Operation>, Vec<&Operation>) =
        relevant.copied().partition(|it| returned(it).is_some_and(|at| at < first.called_ns));
    before.sort_by_key(|it| std::cmp::Reverse(returned(it)));
    before.truncate(BEFORE_MAX);
    around.sort_by_key(|it| std::cmp::Reverse(it.called_ns));
    around.truncate(AROUND_MAX);
    let mut excerpt: Vec<Operation> = before.into_iter().chain(around).cloned().collect();
    excerpt.sort_by_key(|it| it.called_ns);
    let explained = operations.iter().filter(|it| returned(it).is_some_and(|at| at < end)).count();
    Finding::NotLinearizable { first: Box::new((*first).clone()), explained, holds, excerpt }
}

/// The history as it was known at a moment.
fn until(calls: &[Call], end: u64) -> Vec<Call> {
    let known = |call: &Call| Call { returned: call.returned.filter(|(at, _)| *at <= end), ..*call };
    let calls = calls.iter().filter(|call| call.called <= end).map(known);
    calls.filter(|call| call.returned.is_some() || !call.request.is_read()).collect()
}

#[derive(Debug)]
enum Verdict {
    Linearizable,
    Not(Stuck),
    Undecided,
}

/// The furthest place that any order came to.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    holds: Content,
    /// When the first of the operations that are not explained there returned.
    returned: u64,
}

fn decide(calls: &[Call]) -> Verdict {
    let search = Search::new(calls);
    match search.run(Open::Depth(Vec::new()), DEPTH_STEPS_MAX) {
        Verdict::Undecided => search.run(Open::Breadth(BTreeMap::new()), BREADTH_STEPS_MAX),
        verdict => verdict,
    }
}

/// A place in the search.
#[derive(Clone)]
struct Place {
    /// All answered operations before this one are done,
    first: usize,
    /// and of the others these, in order.
    beyond: Vec<usize>,
    /// The operations without an outcome that have taken effect.
    used: Used,
    /// What the register holds.
    content: Content,
}

impl Place {
    /// How many answers are explained.
    fn explained(&self) -> usize {
        self.first + self.beyond.len()
    }
}

/// The places to go to.
enum Open {
    /// The last one first.
    Depth(Vec<Place>),
    /// Those with the fewest answers explained first, and of these the ones that used least.
    Breadth(BTreeMap<(usize, u32), Vec<Place>>),
}

impl Open {
    fn push(&mut self, place: Place) {
        match self {
            Self::Depth(places) => places.push(place),
            Self::Breadth(places) => places.entry((place.explained(), place.used.total())).or_default().push(place),
        }
    }

    fn pop(&mut self) -> Option<Place> {
        match self {
            Self::Depth(places) => places.pop(),
            Self::Breadth(places) => {
                let mut least = places.first_entry()?;
                let place = least.get_mut().pop();
                if least.get().is_empty() {
                    least.remove();
                }
                place
            }
        }
    }
}

/// A place but for what was used: what is done and what the register holds, where all that nobody asks for is one.
type Where = (usize, Vec<usize>, Held);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    This(Content),
    WhatNobodyAsksFor,
}

/// The places where the search was, each with what of the used operations can be missed there; none of them misses all that
/// another misses.
#[derive(Default)]
struct Visited {
    places: HashMap<Where, Vec<Missed>>,
    count: usize,
    /// How many steps it took to look.
    steps: usize,
}

impl Visited {
    /// Notes a place; false when it was there, or at one that is never worse.
    fn add(&mut self, place: Where, missed: Missed) -> bool {
        let known = self.places.entry(place).or_default();
        self.steps += known.len();
        if known.iter().any(|known| known.is_within(&missed)) {
            return false;
        }
        let before = known.len();
        known.retain(|known| !missed.is_within(known));
        known.push(missed);
        self.count = self.count + known.len() - before;
        true
    }
}

struct Search {
    /// Sorted by their calls.
    answered: Vec<Answered>,
    unknowns: Unknowns,
    needs: Needs,
}

impl Search {
    fn new(calls: &[Call]) -> Self {
        let mut answered: Vec<Answered> = calls
            .iter()
            .filter_map(|call| {
                let (returned, answer) = call.returned?;
                Some(Answered { called: call.called, returned, request: call.request, answer })
            })
            .collect();
        answered.sort_by_key(|it| it.called);
        let unanswered: Vec<Call> = calls.iter().filter(|call| call.returned.is_none()).copied().collect();
        let needs = Needs::new(&answered, &unanswered);
        let unknowns = Unknowns::new(unanswered, &needs);
        Self { answered, unknowns, needs }
    }

    fn run(&self, mut open: Open, steps_max: usize) -> Verdict {
        let mut visited = Visited::default();
        let mut furthest = Place { first: 0, beyond: Vec::new(), used: self.unknowns.none_used(), content: None };
        let mut steps = 0;
        open.push(furthest.clone());
        while let Some(place) = open.pop() {
            if place.first == self.answered.len() {
                return Verdict::Linearizable;
            }
            if place.explained() > furthest.explained() {
                furthest = place.clone();
                if matches!(open, Open::Breadth(_)) {
                    // Nothing leads back to where fewer answers are explained.
                    (visited.places, visited.count) = (HashMap::new(), 0);
                }
            }
            let missed = self.unknowns.missed(&place.used, place.first);
            if visited.add((place.first, place.beyond.clone(), self.held(&place)), missed) {
                steps += self.go_on(&place, &mut open, steps_max.saturating_sub(steps));
            }
            if visited.count > PLACES_MAX || visited.steps + steps > steps_max {
                return Verdict::Undecided;
            }
        }
        let (_, returned) = self.candidates(&furthest);
        Verdict::Not(Stuck { holds: furthest.content, returned })
    }

    fn held(&self, place: &Place) -> Held {
        match place.content {
            Some(value) if self.needs.last_of(value) <= place.first => Held::WhatNobodyAsksFor,
            content => Held::This(content),
        }
    }

    /// The answered operations that may be next, the first returned last, and up to when what is next was called.
    fn candidates(&self, place: &Place) -> (Vec<usize>, u64) {
        let mut horizon = u64::MAX;
        let mut found = Vec::new();
        for (n, operation) in self.answered.iter().enumerate().skip(place.first) {
            if operation.called > horizon {
                break;
            }
            if place.beyond.binary_search(&n).is_err() {
                horizon = horizon.min(operation.returned);
                found.push(n);
            }
        }
        found.retain(|n| self.answered[*n].called <= horizon);
        found.sort_by_key(|n| std::cmp::Reverse(self.answered[*n].returned));
        (found, horizon)
    }

    /// Puts into `open` what may follow; what is tried first into the depth comes last. How many steps that took.
    fn go_on(&self, place: &Place, open: &mut Open, budget: usize) -> usize {
        let (candidates, horizon) = self.candidates(place);
        let mut steps = 1 + candidates.len();
        let fits = |n: usize, content: Content| self.answered[n].request.apply(content).1 == self.answered[n].answer;
        let (fitting, others): (Vec<usize>, Vec<usize>) = candidates.into_iter().partition(|n| fits(*n, place.content));
        let is_still = |n: &&usize| match self.answered[**n].request {
            Request::Get | Request::SetNx(_) | Request::Cas { .. } => {
                self.answered[**n].request.apply(place.content).0 == place.content
            }
            // To add nothing makes a key that is absent.
            Request::Bump(0) => self.answered[**n].answer != Answer::Sum(0),
            // A sum that was cut off at 0 may change nothing here and something elsewhere.
            Request::Set(_) | Request::Delete | Request::Bump(_) => false,
        };
        if let Some(n) = fitting.iter().find(is_still) {
            open.push(self.done(place, *n));
            return steps;
        }
        let mut goals: Vec<Goal> = Vec::new();
        for goal in others.iter().flat_map(|n| Goal::of(self.answered[*n].request, self.answered[*n].answer)) {
            if !goals.contains(&goal) {
                goals.push(goal);
            }
        }
        for goal in goals {
            let (chains, taken) = self.unknowns.chains(goal, place, horizon, budget.saturating_sub(steps));
            steps += taken;
            for chain in chains {
                let content = chain.requests.iter().fold(place.content, |content, request| request.apply(content).0);
                let after = Place { used: chain.used, content, ..place.clone() };
                // The answer that the chain was made for comes at once: else it would have been made too early.
                for n in others.iter().filter(|n| fits(**n, content)) {
                    open.push(self.done(&after, *n));
                }
            }
        }
        fitting.into_iter().for_each(|n| open.push(self.done(place, n)));
        steps
    }

    fn done(&self, place: &Place, n: usize) -> Place {
        let mut next = place.clone();
        next.content = self.answered[n].request.apply(place.content).0;
        let at = next.beyond.partition_point(|it| *it < n);
        next.beyond.insert(at, n);
        let ready = next.beyond.iter().zip(next.first..).take_while(|(done, expected)| **done == *expected).count();
        next.beyond.drain(..ready);
        next.first += ready;
        next
    }
}
