//! One key as a register of whole numbers: what is asked, what it does, what it answers.
//!
//! Values are whole numbers, since `bump` needs them. Whoever wants long values pads their text with leading zeros, always in
//! the same way for the same number: `cas` compares texts.

use serde::{Deserialize, Serialize};

/// What a register holds; none is absent.
pub type Content = Option<i64>;

/// What is asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// What does it hold?
    Get,
    /// Let it hold this.
    Set(i64),
    /// Let it hold this if it is absent.
    SetNx(i64),
    /// Let it hold `new` if it holds `old`.
    Cas {
        /// What it must hold.
        old: i64,
        /// What it shall hold.
        new: i64,
    },
    /// Let it be absent.
    Delete,
    /// Add this; an absent one counts as 0, and a sum below 0 is stored as 0.
    Bump(i64),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Of [`Request::Get`]: what it holds.
    Content(Content),
    /// Of [`Request::Set`] and [`Request::Delete`].
    Done,
    /// Of [`Request::SetNx`] and [`Request::Cas`]: whether the condition held.
    Met(bool),
    /// Of [`Request::Bump`]: the sum that it holds now.
    Sum(i64),
}

impl Request {
    /// What a register does: the content afterwards, and the answer. A sum above the range of `i64` is refused by the server
    /// and changes nothing; here no answer fits it.
    #[must_use]
    pub fn apply(self, content: Content) -> (Content, Answer) {
        match self {
            Self::Get => (content, Answer::Content(content)),
            Self::Set(value) => (Some(value), Answer::Done),
            Self::Delete => (None, Answer::Done),
            Self::SetNx(value) if content.is_none() => (Some(value), Answer::Met(true)),
            Self::Cas { old, new } if content == Some(old) => (Some(new), Answer::Met(true)),
            Self::SetNx(_) | Self::Cas { .. } => (content, Answer::Met(false)),
            Self::Bump(by) => match content.unwrap_or(0).checked_add(by) {
                Some(sum) => (Some(sum.max(0)), Answer::Sum(sum.max(0))),
                None => (content, Answer::Done),
            },
        }
    }

    /// Whether it only looks.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get)
    }
}
