//! What the network carries: questions and their answers, frames of streams, HTTP.

use axum::{body::Body, http::Request};
use bytes::Bytes;
use consensus::transport::{
    message::is_idempotent,
    wire::{Route, WireError},
};
use server::peer::message::{Ask, Told};

use super::Answer;

#[derive(Clone)]
pub(super) enum Asked {
    Group(Route, Bytes),
    Node(Box<Ask>),
}

impl Asked {
    pub(super) fn may_arrive_twice(&self) -> bool {
        match self {
            Self::Group(_, question) => is_idempotent(question),
            Self::Node(_) => true,
        }
    }
}

pub(super) enum Reply {
    Group(Bytes),
    Node(Box<Told>),
}

pub(super) type Replied = Result<Reply, WireError>;

pub(super) enum Parcel {
    Call { id: u64, asked: Asked },
    Reply { id: u64, replied: Replied },
    Open { id: u64, route: Route },
    Opened { id: u64, opened: Result<(), WireError> },
    Frame { id: u64, to_opener: bool, bytes: Bytes },
    End { id: u64, to_opener: bool },
    Abandoned { id: u64 },
    Broken { id: u64 },
    Request { id: u64, is_private: bool, request: Box<Request<Body>> },
    Response { id: u64, answer: Option<Answer> },
}

impl Parcel {
    /// For the trace: what it is, without what is different in equal runs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Call { .. } => "call",
            Self::Reply { .. } => "reply",
            Self::Open { .. } => "open",
            Self::Opened { .. } => "opened",
            Self::Frame { .. } => "frame",
            Self::End { .. } => "end",
            Self::Abandoned { .. } => "abandoned",
            Self::Broken { .. } => "broken",
            Self::Request { .. } => "request",
            Self::Response { .. } => "response",
        }
    }

    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Call { id, .. }
            | Self::Reply { id, .. }
            | Self::Open { id, .. }
            | Self::Opened { id, .. }
            | Self::Frame { id, .. }
            | Self::End { id, .. }
            | Self::Abandoned { id }
            | Self::Broken { id }
            | Self::Request { id, .. }
            | Self::Response { id, .. } => *id,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Call { asked: Asked::Group(_, bytes), .. }
            | Self::Reply { replied: Ok(Reply::Group(bytes)), .. }
            | Self::Frame { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// The stream whose order it keeps, and in which direction.
    pub(super) fn lane(&self) -> Option<(u64, bool)> {
        match self {
            Self::Open { id, .. } | Self::Abandoned { id } => Some((*id, false)),
            Self::Opened { id, .. } => Some((*id, true)),
            Self::Frame { id, to_opener, .. } | Self::End { id, to_opener } => Some((*id, *to_opener)),
            _ => None,
        }
    }
}
