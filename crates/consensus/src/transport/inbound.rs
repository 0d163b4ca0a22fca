//! The way in: what peers ask of this member.
//!
//! 1. A message that is not for this very member of this very group is refused unread.
//! 2. What is Raft's goes to openraft; a vote first passes the [hold](crate::hold) of a member that has just started.
//! 3. Entries wait here until the log has room for them. Inside openraft they would hold up the answers to heartbeats and
//!    votes: a member whose disk is full would count as dead, and two of three would cost the others their leader, and with
//!    it every read.
//! 4. Commands that a follower was given, and its question up to where it must have applied, go to the group itself.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, VoteRequest},
};
use storage::Engine;
use tokio::time::sleep;

use crate::{
    group::Group,
    log::weight::entry_bytes,
    submit::goes_on_a_full_disk,
    transport::{
        message::{self, Answer, Append, Appended, Opening, Question},
        wire::{Frames, Refusal, Route},
    },
    types::{Entry, TypeConfig},
};

/// How often those who wait for room look for it.
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// What a group needs to have a leader, and nodes to come up: few, and small.
fn is_vital(entry: &Entry) -> bool {
    match &entry.payload {
        EntryPayload::Blank | EntryPayload::Membership(_) => true,
        EntryPayload::Normal(proposal) => proposal.0.commands.iter().all(goes_on_a_full_disk),
    }
}

impl<E: Engine> Group<E> {
    /// Answers one message of a peer.
    ///
    /// # Errors
    /// When the message is not for this member, or of a version that it does not speak; nothing was done.
    pub async fn receive(&self, route: &Route, message: Bytes) -> Result<Bytes, Refusal> {
        self.check_route(route)?;
        let answer = match message::decode(&message)? {
            Question::Vote(request) => self.vote(request).await?,
            Question::PreVote(request) => self.pre_vote(request).await?,
            Question::Append(append) => self.append(append).await,
            Question::Transfer(request) => {
                self.raft().handle_transfer_leader(request).await.map_or(Answer::Stopped, Answer::Transfer)
            }
            Question::Propose(forwarded) => self.propose_forwarded(forwarded).await,
            Question::ReadIndex => self.answer_read_index().await,
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
        self.check_route(route)?;
        let Some(Ok(first)) = frames.next().await else { return Err(Refusal("the stream has no opening".to_owned())) };
        match message::decode(&first)? {
            Opening::Append => Ok(self.append_stream(frames)),
            Opening::Snapshot(opening) => Ok(self.receive_snapshot(opening, frames)),
        }
    }

    async fn vote(&self, request: VoteRequest<TypeConfig>) -> Result<Answer, Refusal> {
        // A transfer's election is the leader's own doing: its lease ends before the transfer begins.
        if !request.leadership_transfer {
            self.hold().check()?;
        }
        Ok(self.raft().vote(request).await.map_or(Answer::Stopped, Answer::Vote))
    }

    async fn pre_vote(&self, request: VoteRequest<TypeConfig>) -> Result<Answer, Refusal> {
        self.hold().check()?;
        Ok(self.raft().pre_vote(request).await.map_or(Answer::Stopped, Answer::Vote))
    }

    async fn append(&self, append: Append) -> Answer {
        let Append { request, quorum_age_ms } = append;
        if self.contradicts(&request).await {
            return Answer::Stopped;
        }
        self.await_room(&request.entries).await;
        match self.raft().append_entries(request).await {
            Ok(response) => {
                if !matches!(response, message::AppendResponse::HigherVote(_)) {
                    self.contact().heard(quorum_age_ms);
                }
                Answer::Appended(response)
            }
            Err(_) => Answer::Stopped,
        }
    }

    /// Answers appends in their order. Many are under way at a time: openraft takes the next one while earlier ones are
    /// on their way to the disk.
    fn append_stream(&self, frames: Frames) -> BoxStream<'static, Bytes> {
        let group = self.clone();
        let requests = stream::unfold(frames, move |mut frames| {
            let group = group.clone();
            async move {
                let request = group.next_append(&mut frames).await?;
                Some((request, frames))
            }
        });
        let results = self.raft().stream_append(requests.boxed());
        results
            .map(|result| {
                message::encode(&match result {
                    Ok(result) => Appended::from(result),
                    Err(_) => Appended::Stopped,
                })
            })
            .boxed()
    }

    /// The next append of a stream; none when the stream ends, breaks, or says what cannot be understood: the sender
    /// then opens another.
    async fn next_append(&self, frames: &mut Frames) -> Option<AppendEntriesRequest<TypeConfig>> {
        let frame = frames.next().await?.ok()?;
        match message::decode::<Append>(&frame) {
            Ok(Append { request, quorum_age_ms }) => {
                if self.contradicts(&request).await {
                    return None;
                }
                // An append of a deposed leader says nothing of the present one.
                if self.knows_as_leader(&request.vote) {
                    self.contact().heard(quorum_age_ms);
                }
                self.await_room(&request.entries).await;
                Some(request)
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "a stream of entries is given up");
                None
            }
        }
    }

    /// Returns when the log has room for the entries.
    async fn await_room(&self, entries: &[Entry]) {
        let bytes = entries.iter().map(|entry| entry_bytes(entry) as u64).sum();
        let vital = entries.iter().all(is_vital);
        while !entries.is_empty() && !self.log().has_room_for(bytes, vital) {
            sleep(ROOM_LOOK).await;
        }
    }

    async fn contradicts(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let sent = request.prev_log_id.iter().chain(request.entries.iter().map(|entry| &entry.log_id));
        self.is_contradicted(&request.vote, sent.copied()).await
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
