//! The way in: what peers ask of this member.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use storage::Engine;

use crate::{
    group::Group,
    transport::{
        message::{self, Answer, Opening, Question},
        wire::{Frames, Refusal, Route},
    },
};

impl<E: Engine> Group<E> {
    /// Answers one message of a peer.
    ///
    /// # Errors
    /// When the message is not for this member, or of a version that it does not speak; nothing was done.
    pub async fn receive(&self, route: &Route, message: Bytes) -> Result<Bytes, Refusal> {
        self.check_route(route)?;
        let question: Question = message::decode(&message)?;
        let answer: Answer = match question {
            Question::Vote(_)
            | Question::PreVote(_)
            | Question::Transfer(_)
            | Question::Propose(_)
            | Question::ReadIndex => Answer::Stopped,
        };
        Ok(message::encode(&answer))
    }

    /// Answers the stream of a peer, frame by frame.
    ///
    /// # Errors
    /// As [`Group::receive`], for the first frame.
    pub async fn receive_stream(
        &self,
        route: &Route,
        mut frames: Frames,
    ) -> Result<BoxStream<'static, Bytes>, Refusal> {
        use futures_util::StreamExt as _;
        self.check_route(route)?;
        let Some(Ok(first)) = frames.next().await else { return Err(Refusal("the stream has no opening".to_owned())) };
        match message::decode(&first)? {
            Opening::Append | Opening::Snapshot(_) => Err(Refusal("this node has no peers".to_owned())),
        }
    }

    fn check_route(&self, route: &Route) -> Result<(), Refusal> {
        if route.group != self.id() {
            return Err(Refusal(format!("the message is for {:?}, this member is of {:?}", route.group, self.id())));
        }
        if route.to != self.member() {
            return Err(Refusal(format!("the message is for member {}, this is {}", route.to, self.member())));
        }
        Ok(())
    }
}
