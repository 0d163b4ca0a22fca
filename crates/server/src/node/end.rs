//! Why a node ends by itself.

use std::fmt;

use tokio::sync::watch;

use crate::peer::message::Condemned;

/// Where a node's tasks say that it must end.
pub(super) type Ending = watch::Sender<Option<End>>;

/// Why a node ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Something is wrong with it: what, where, and what to do. It answers nobody any more.
    Fault(String),
    /// An operator has removed it. Nothing is wrong: what is in flight is answered, the removal itself perhaps.
    Removed,
}

impl From<Condemned> for End {
    fn from(condemned: Condemned) -> Self {
        match condemned {
            Condemned::Removed => Self::Removed,
            Condemned::Differs(_) | Condemned::LogWentBack | Condemned::RunsTwice => Self::Fault(condemned.to_string()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(what) => f.write_str(what),
            Self::Removed => Condemned::Removed.fmt(f),
        }
    }
}
