//! Which values and which operations without an outcome can still make a difference at a place of the search.
//!
//! A value that no answer mentions which is still to be explained, and from which additions lead to no value that one
//! mentions, can only be overwritten, deleted, or make a condition fail: which one it is makes no difference any more. So all
//! of them are one, and so are the unknown writes of such values. Without that, the search would tell places apart by what was
//! done in a past that nobody can ask about.

use std::collections::BTreeMap;

use super::{Answered, Call};
use crate::register::{Answer, Content, Request};

/// How many mentioned values are looked at one by one.
const NEAR_MAX: usize = 32;

/// Where, in the order of their calls, the last answered operation stands that may ask for something; one more than its
/// index, and 0 where there is none.
type Last = usize;

/// When each value is mentioned last.
#[derive(Debug)]
pub(super) struct Needs {
    mentioned: BTreeMap<i64, Last>,
    /// The last mention of this value or a higher one.
    from_here_on: BTreeMap<i64, Last>,
    /// When a condition failed last since a key held this value.
    refuted: BTreeMap<i64, Last>,
    /// The same, since it was absent.
    refuted_absence: Last,
    /// The most that all additions together add, and take away.
    reach: (i64, i64),
}

impl Needs {
    /// `answered` is in the order of the calls.
    pub(super) fn new(answered: &[Answered], unanswered: &[Call]) -> Self {
        let mut reach = (0_i64, 0_i64);
        for request in answered.iter().map(|it| it.request).chain(unanswered.iter().map(|it| it.request)) {
            if let Request::Bump(by) = request {
                reach = (reach.0.saturating_add(by.max(0)), reach.1.saturating_add(by.min(0)));
            }
        }
        let mut needs = Self {
            mentioned: BTreeMap::new(),
            from_here_on: BTreeMap::new(),
            refuted: BTreeMap::new(),
            refuted_absence: 0,
            reach,
        };
        for (last, Answered { request, answer, .. }) in (1..).zip(answered) {
            match (*request, *answer) {
                (Request::Get, Answer::Content(content)) => needs.mention(content, last),
                (Request::Cas { old, .. }, Answer::Met(is_met)) => {
                    needs.mention(Some(old), last);
                    if !is_met {
                        needs.refuted.insert(old, last);
                    }
                }
                (Request::SetNx(_), Answer::Met(false)) => needs.refuted_absence = last,
                // What is cut off at 0 may have been anything before.
                (Request::Bump(by), Answer::Sum(sum)) if sum == 0 || by < 0 => {
                    needs.mention(Some(0), last);
                    needs.mention(Some(sum.saturating_sub(by)), last);
                }
                (Request::Bump(by), Answer::Sum(sum)) => needs.mention(Some(sum.saturating_sub(by)), last),
                _ => {}
            }
        }
        needs.look_from_above();
        // A swap without an outcome asks for its old value as long as anybody asks for its new one.
        loop {
            let mut is_settled = true;
            for call in unanswered {
                let Request::Cas { old, new } = call.request else { continue };
                let last = needs.last_of(new);
                if last > needs.mentioned.get(&old).copied().unwrap_or(0) {
                    needs.mention(Some(old), last);
                    is_settled = false;
                }
            }
            if is_settled {
                return needs;
            }
            needs.look_from_above();
        }
    }

    fn look_from_above(&mut self) {
        let mut highest = 0;
        for (value, last) in self.mentioned.iter().rev() {
            highest = highest.max(*last);
            self.from_here_on.insert(*value, highest);
        }
    }

    fn mention(&mut self, content: Content, last: Last) {
        if let Some(value) = content {
            let known = self.mentioned.entry(value).or_default();
            *known = last.max(*known);
        }
    }

    /// When an answer last asks for this value, or for one that additions may make of it. Never too early.
    pub(super) fn last_of(&self, value: i64) -> Last {
        let (up, down) = self.reach;
        if down < 0 {
            // Sums may be cut off at 0 and grow again: anything may come of anything.
            return self.from_here_on.values().next().copied().unwrap_or(0);
        }
        let near: Vec<Last> =
            self.mentioned.range(value..=value.saturating_add(up)).take(NEAR_MAX + 1).map(|(_, last)| *last).collect();
        if near.len() <= NEAR_MAX {
            return near.into_iter().max().unwrap_or(0);
        }
        self.from_here_on.range(value..).next().map_or(0, |(_, last)| *last)
    }

    /// When a condition failed last that asked for this.
    pub(super) fn last_refuted(&self, content: Content) -> Last {
        match content {
            Some(value) => self.refuted.get(&value).copied().unwrap_or(0),
            None => self.refuted_absence,
        }
    }

    /// When any condition failed last.
    pub(super) fn last_refuted_at_all(&self) -> Last {
        self.refuted.values().copied().max().unwrap_or(0).max(self.refuted_absence)
    }
}
