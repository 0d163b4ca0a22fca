//! Is a history of one register linearizable?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2017): take one operation after another that may be next by real time and whose answer fits, and never
//! visit the same place twice. A place is the set of operations that are done and the value that they left.
//!
//! What keeps it fast:
//! - A read that fits is taken at once, and so is a swap that failed: wherever else it stood, it would change nothing.
//! - An operation without an answer may take effect at any time after its call, or never. It is tried last, only where an
//!   operation follows whose answer depends on it, and of equal ones only the first called. Having used fewer of them
//!   is never worse: a place that was reached with fewer is not visited again with more.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// What a register holds; none is absent.
pub(crate) type Content = Option<i64>;

/// Places that the search visits at most, before it says that it cannot tell.
const PLACES_MAX: usize = 2_000_000;

/// What is asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Set(i64),
    Delete,
    /// Set to `new` where it holds `old`; with none as `old`, where it is absent.
    Swap {
        old: Content,
        new: i64,
    },
    /// Add; an absent one counts as 0.
    Bump(i64),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Content(Content),
    Done,
    Swapped(bool),
    Sum(i64),
}

impl Request {
    /// What a register does: the content afterwards, and the answer.
    pub(crate) fn apply(self, content: Content) -> (Content, Answer) {
        match self {
            Self::Get => (content, Answer::Content(content)),
            Self::Set(value) => (Some(value), Answer::Done),
            Self::Delete => (None, Answer::Done),
            Self::Swap { old, new } if content == old => (Some(new), Answer::Swapped(true)),
            Self::Swap { .. } => (content, Answer::Swapped(false)),
            Self::Bump(by) => {
                let sum = (content.unwrap_or(0) + by).max(0);
                (Some(sum), Answer::Sum(sum))
            }
        }
    }

    /// Whether what it does and answers is the same whatever was there.
    fn is_blind(self) -> bool {
        match self {
            Self::Set(_) | Self::Delete => true,
            Self::Get | Self::Swap { .. } | Self::Bump(_) => false,
        }
    }
}

/// One operation: when it was called and when it was answered, in nanoseconds of one clock. What surely was not done
/// is not part of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    pub(crate) request: Request,
    /// None: it may have been done, and may still be done at any time later.
    pub(crate) returned: Option<(u64, Answer)>,
}

/// Why a history is not accepted.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No order explains it. The furthest place that any order came to.
    NotLinearizable {
        /// How many answered operations were explained, and of how many.
        explained: usize,
        of: usize,
        /// What the register held there.
        content: Content,
        /// The operations of which none can be next.
        stuck: Vec<Operation>,
    },
    /// The search was given up: the history has too many operations at a time.
    TooHard,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable { explained, of, content, stuck } => write!(
                f,
                "{explained} of {of} answers can be explained; then it holds {content:?}, and none of these fits: {stuck:#?}"
            ),
            Self::TooHard => write!(f, "cannot tell within {PLACES_MAX} places"),
        }
    }
}

/// A place in the search.
#[derive(Clone)]
struct Place {
    /// All answered operations before this one are done,
    first: usize,
    /// and of the others these.
    beyond: BTreeSet<usize>,
    /// The operations without an answer that have taken effect.
    used: BTreeSet<usize>,
    content: Content,
    /// Whether the last step was one of those: the next must depend on it.
    is_owed: bool,
}

/// A place but for what it used: its other fields, in their order.
type Where = (usize, BTreeSet<usize>, Content, bool);

/// Checks a history of a register that is absent at its beginning.
pub(crate) fn check(history: &[Operation]) -> Result<(), Fault> {
    Search::new(history).run()
}

struct Search {
    /// Sorted by their calls.
    answered: Vec<(Operation, u64, Answer)>,
    unanswered: Vec<Operation>,
    /// With which unanswered operations used each place was reached; no set holds another.
    seen: HashMap<Where, Vec<BTreeSet<usize>>>,
    places: usize,
    furthest: Option<(usize, Place)>,
}

impl Search {
    fn new(history: &[Operation]) -> Self {
        let mut history = history.to_vec();
        history.sort_by_key(|operation| operation.called);
        let answered = history.iter().filter_map(|it| it.returned.map(|(at, answer)| (*it, at, answer))).collect();
        // A read without an answer says nothing.
        let unanswered =
            history.iter().filter(|it| it.returned.is_none() && it.request != Request::Get).copied().collect();
        Self { answered, unanswered, seen: HashMap::new(), places: 0, furthest: None }
    }

    fn run(mut self) -> Result<(), Fault> {
        let start = Place { first: 0, beyond: BTreeSet::new(), used: BTreeSet::new(), content: None, is_owed: false };
        let mut open = vec![start];
        while let Some(place) = open.pop() {
            if place.first == self.answered.len() {
                return Ok(());
            }
            if !self.is_new(&place) {
                continue;
            }
            if self.places > PLACES_MAX {
                return Err(Fault::TooHard);
            }
            let explained = place.first + place.beyond.len();
            if self.furthest.as_ref().is_none_or(|(most, _)| explained > *most) {
                self.furthest = Some((explained, place.clone()));
            }
            self.go_on(&place, &mut open);
        }
        let (explained, place) = self.furthest.take().expect("an empty history is accepted");
        let stuck = self.candidates(&place).0.into_iter().map(|n| self.answered[n].0).collect();
        Err(Fault::NotLinearizable { explained, of: self.answered.len(), content: place.content, stuck })
    }

    fn is_new(&mut self, place: &Place) -> bool {
        let key = (place.first, place.beyond.clone(), place.content, place.is_owed);
        let seen = self.seen.entry(key).or_default();
        if seen.iter().any(|used| used.is_subset(&place.used)) {
            return false;
        }
        seen.retain(|used| !place.used.is_subset(used));
        seen.push(place.used.clone());
        self.places += 1;
        true
    }

    /// The answered operations that may be next, the first returned last, and up to when what is next was called.
    fn candidates(&self, place: &Place) -> (Vec<usize>, u64) {
        let mut horizon = u64::MAX;
        let mut found = Vec::new();
        for (n, (operation, returned, _)) in self.answered.iter().enumerate().skip(place.first) {
            if operation.called > horizon {
                break;
            }
            if !place.beyond.contains(&n) {
                horizon = horizon.min(*returned);
                found.push(n);
            }
        }
        found.retain(|n| self.answered[*n].0.called <= horizon);
        found.sort_by_key(|n| std::cmp::Reverse(self.answered[*n].1));
        (found, horizon)
    }

    /// Puts on top of `open` what may follow; what is tried first comes last.
    fn go_on(&self, place: &Place, open: &mut Vec<Place>) {
        let (candidates, horizon) = self.candidates(place);
        let fitting: Vec<(usize, Content)> = candidates
            .into_iter()
            .filter_map(|n| {
                let (operation, _, answer) = &self.answered[n];
                let (content, expected) = operation.request.apply(place.content);
                (expected == *answer && !(place.is_owed && operation.request.is_blind())).then_some((n, content))
            })
            .collect();
        let is_still =
            |(n, content): &&(usize, Content)| *content == place.content && !self.answered[*n].0.request.is_blind();
        if let Some((n, content)) = fitting.iter().find(is_still) {
            open.push(self.done(place, *n, *content));
            return;
        }
        for (n, operation) in self.unanswered.iter().enumerate() {
            if operation.called > horizon {
                break;
            }
            let has_equal_before =
                || (0..n).any(|m| !place.used.contains(&m) && self.unanswered[m].request == operation.request);
            let (content, _) = operation.request.apply(place.content);
            let is_pointless = content == place.content || (place.is_owed && operation.request.is_blind());
            if !is_pointless && !place.used.contains(&n) && !has_equal_before() {
                let mut next = Place { content, is_owed: true, ..place.clone() };
                next.used.insert(n);
                open.push(next);
            }
        }
        open.extend(fitting.into_iter().map(|(n, content)| self.done(place, n, content)));
    }

    fn done(&self, place: &Place, n: usize, content: Content) -> Place {
        let mut next = Place { content, is_owed: false, ..place.clone() };
        next.beyond.insert(n);
        while next.beyond.remove(&next.first) {
            next.first += 1;
        }
        next
    }
}
