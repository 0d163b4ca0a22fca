//! What the leader does for the holders of leases: it renews them, and has changes of keys and limits wait for them.

use std::{collections::BTreeSet, time::Duration};

use consensus::types::MemberId;
use futures_util::future::join_all;
use state::{ids::NodeId, registry::RegistryState};
use tokio::time::{Instant, sleep};

use super::{
    desk::Desk,
    lease::{Barrier, Process},
    timing::{LOOK, RENEWAL_WAIT_MAX},
};
use crate::peer::message::{Ask, Condemned, Renewal, Renewed, Told};

impl Desk {
    pub(super) async fn renew(&self, renewal: Renewal) -> Told {
        let Some(confirmed) = self.lessor.confirm(RENEWAL_WAIT_MAX).await else { return self.leader() };
        let process = Process { node: renewal.node, id: renewal.process };
        // Nobody is judged by a group that it is no member of: a copied directory may have founded one under this node's name,
        // whose only voter would be a majority.
        let is_member = self.member_nodes().contains(&renewal.node);
        if is_member {
            self.compare(process, &renewal).await;
        }
        let now = self.now();
        let seen = is_member.then(|| self.census().report(process, renewal.is_disk_full, now));
        let gone_back_age = self.values.gone_back_age(MemberId { node: renewal.node, incarnation: 0 });
        let (granted, condemned, is_doubted) = {
            let mut leases = self.lessor.leases();
            if !leases.enter(confirmed.term, confirmed.applied, now) {
                return self.leader();
            }
            // Of a process before it that says nothing: what it found may be another directory.
            if seen.is_some_and(|seen| gone_back_age.is_some_and(|age| age < seen.known_for)) {
                leases.condemn(process, Condemned::LogWentBack);
            } else if seen.is_some_and(|seen| seen.runs_twice) {
                leases.condemn(process, Condemned::RunsTwice);
            }
            // Under the lock, so that who has left meanwhile is seen to have.
            let is_member = self.member_nodes().contains(&renewal.node);
            let granted = leases.renew(process, renewal.applied, is_member, now);
            (granted, leases.condemned(process), leases.is_doubted(process))
        };
        let is_removed = !is_member && self.has_removed(renewal.node);
        let condemned = condemned.or(is_removed.then_some(Condemned::Removed));
        let registry = self.values.local().registry().unwrap_or_default();
        Told::Renewed(Renewed {
            granted: granted.granted,
            floor: granted.floor,
            leader_public_url: self.public_url.clone(),
            drop_generation: self.suspected(&renewal, &registry, now),
            condemned,
            is_doubted,
        })
    }

    fn member_nodes(&self) -> BTreeSet<NodeId> {
        self.values.members().members.iter().map(|member| member.id.node).collect()
    }

    fn suspected(&self, renewal: &Renewal, registry: &RegistryState, now: Duration) -> Option<u64> {
        let mut suspicions = self.suspicions();
        suspicions.report(renewal.node, renewal.suspects, now);
        suspicions.generation_to_drop(registry, now)
    }

    /// Answers once everything applied now is in force on every node that may serve.
    pub(super) async fn barrier(&self, wait_max: Duration) -> Told {
        let until = Instant::now() + wait_max;
        let Some(confirmed) = self.lessor.confirm(wait_max).await else { return self.leader() };
        let (term, index) = (confirmed.term, confirmed.applied);
        let members = {
            let mut leases = self.lessor.leases();
            if !leases.enter(term, index, self.now()) {
                return self.leader();
            }
            leases.raise_floor(index);
            self.member_nodes()
        };
        loop {
            let now = self.now();
            let barrier = {
                let mut leases = self.lessor.leases();
                if !leases.enter(term, index, now) {
                    return self.leader();
                }
                leases.barrier(index, &members, now)
            };
            match barrier {
                Barrier::Passed => return Told::InForce { index },
                _ if Instant::now() >= until => return Told::Unknown,
                // Until then every member may ask for its lease, which is sooner.
                Barrier::TooEarly(at) => sleep(LOOK.min(at.saturating_sub(now))).await,
                Barrier::Waits(processes) => self.await_processes(&processes, index, now, until).await,
            }
        }
    }

    /// Asks those who are behind; returns when each has answered, or its lease has run out.
    async fn await_processes(&self, processes: &[(Process, Duration)], index: u64, now: Duration, until: Instant) {
        let members = self.values.members();
        join_all(processes.iter().map(async |(process, ends_at)| {
            let wait = ends_at.saturating_sub(now).min(until.saturating_duration_since(Instant::now()));
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let answer = if process.node == self.node {
                Some(self.await_applied(index, wait).await)
            } else {
                let member = members.members.iter().find(|member| member.id.node == process.node);
                let ask = Ask::AwaitApplied { index, wait_ms };
                match member {
                    Some(member) => self.peers.ask(&member.peer.address, &ask, wait).await.ok(),
                    None => None,
                }
            };
            let answered = match answer {
                Some(Told::Applied { process: id }) => Some(Process { node: process.node, id }),
                _ => None,
            };
            if let Some(answered) = answered {
                self.lessor.leases().applied(answered, index);
            }
            if answered != Some(*process) {
                // An unanswered question may come back at once, and a process that has ended answers nothing more: not
                // again before the next look.
                sleep(LOOK.min(wait)).await;
            }
        }))
        .await;
    }
}
