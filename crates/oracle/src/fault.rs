//! What is wrong with a history.

use std::fmt;

use crate::{
    operation::{Operation, Outcome, Store},
    register::Content,
};

/// What is wrong, and with which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the key is.
    pub store: Store,
    /// The key.
    pub key: String,
    /// The generation of the Cache whose register it is; none in the Value Store.
    pub generation: Option<u64>,
    /// What is wrong with it.
    pub finding: Finding,
}

/// What is wrong with a key's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No order of the operations explains all answers.
    NotLinearizable {
        /// The operation whose answer is the first, by its return, that nothing explains.
        first: Box<Operation>,
        /// How many answers came before it; all of these can be explained.
        explained: usize,
        /// What the register may hold at most one step before it: the content at the furthest point that any order reached.
        holds: Content,
        /// The operations around it, by their calls, and those before it that last wrote.
        excerpt: Vec<Operation>,
    },
    /// An older generation of the Cache answered what was called after a newer one had answered.
    OlderGeneration {
        /// What the older one answered.
        operation: Box<Operation>,
        /// The newest generation that had answered before it was called.
        newest: u64,
    },
    /// An answer of the Cache without a generation, or one of the Value Store with one.
    StrayGeneration {
        /// What was answered so.
        operation: Box<Operation>,
    },
    /// The search was given up: too many operations at a time, or too many without an outcome.
    Undecided {
        /// How many operations the register has.
        operations: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.store, self.key)?;
        if let Some(generation) = self.generation {
            write!(f, " in generation {generation}")?;
        }
        match &self.finding {
            Finding::NotLinearizable { first, explained, holds, excerpt } => {
                writeln!(
                    f,
                    ": not linearizable. {explained} answers can be explained, up to where it holds {holds:?};"
                )?;
                writeln!(f, "not explained: {}", Line(first))?;
                write!(f, "around it:")?;
                excerpt.iter().try_for_each(|operation| write!(f, "\n  {}", Line(operation)))
            }
            Finding::OlderGeneration { operation, newest } => {
                write!(f, ": called after generation {newest} had answered: {}", Line(operation))
            }
            Finding::StrayGeneration { operation } => {
                write!(f, ": a generation is missing or too much: {}", Line(operation))
            }
            Finding::Undecided { operations } => write!(f, ": cannot tell, of {operations} operations"),
        }
    }
}

impl std::error::Error for Fault {}

/// An operation on a line of its own.
struct Line<'a>(&'a Operation);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { request, called_ns, outcome, .. } = self.0;
        match outcome {
            Outcome::Known { returned_ns, answer, .. } => {
                write!(f, "{called_ns}..{returned_ns} {request:?} -> {answer:?}")
            }
            Outcome::Unknown => write!(f, "{called_ns}.. {request:?} -> unknown"),
            Outcome::Refused => write!(f, "{called_ns}.. {request:?} -> refused"),
        }
    }
}
