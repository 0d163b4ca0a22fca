//! Makes the faults, one after another and at times two together, and looks after each whether the cluster is whole again and
//! the Cache is as it must be.
//!
//! It has a thread and a runtime of its own: what it does to processes, disks and networks blocks, and clients must not wait.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    clients::World,
    cluster::{Cluster, NODES},
    record::{CacheFate, Event},
    schedule::{Action, Role, Schedule, Step},
    watch::Watch,
};

/// How long a cluster without faults may take until it is whole.
pub(crate) const WHOLE_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the others may take until they take writes without a node.
const GO_ON_WAIT_MAX: Duration = Duration::from_secs(20);
/// So many writes show that they go on.
const GO_ON_WRITES: u64 = 5;
const PACE: Duration = Duration::from_millis(20);

pub(crate) struct Nemesis<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) watch: Watch,
    pub(crate) world: &'a World,
    pub(crate) runtime: Runtime,
}

/// A fault that was begun.
struct Begun {
    /// Whom the others must do without.
    victims: Vec<usize>,
    /// Whether the others must take writes meanwhile.
    others_go_on: bool,
    /// What becomes of the Cache.
    cache: CacheFate,
}

impl Nemesis<'_> {
    /// Makes faults until the time is over; returns the cluster whole, or as whole as it becomes.
    pub(crate) fn run(mut self, mut schedule: Option<Schedule>, duration: Duration) -> anyhow::Result<Cluster> {
        let end = Instant::now() + duration;
        while Instant::now() < end && !self.world.is_over() {
            let Some(step) = schedule.as_mut().map(Schedule::next) else {
                self.calm(PACE);
                continue;
            };
            self.calm(step.calm);
            let Ok(generation_before) = self.await_whole("before a fault")? else { break };
            let at_ns = self.world.recorder.now_ns();
            let also = step.also.map(|also| format!(", with {also:?}")).unwrap_or_default();
            let what = format!("{:?}{also}, for {:?}", step.action, step.hold);
            self.world.recorder.event(&Event::Fault { at_ns, kind: step.action.kind(), what })?;
            let cache = self.perform(step).with_context(|| format!("at {step:?}"))?;
            let healed = Instant::now();
            let Ok(generation) = self.await_whole(&format!("after {:?}", step.action))? else { break };
            self.world.recorder.event(&Event::Healed {
                at_ns: self.world.recorder.now_ns(),
                kind: step.action.kind(),
                after_ms: u64::try_from(healed.elapsed().as_millis()).unwrap_or(u64::MAX),
                cache,
                generation_before,
                generation,
            })?;
        }
        Ok(self.cluster)
    }

    fn calm(&self, time: Duration) {
        self.runtime.block_on(async { sleep(time).await });
    }

    /// Waits until the cluster is whole. The inner error has been recorded.
    fn await_whole(&mut self, when: &str) -> anyhow::Result<Result<u64, ()>> {
        let whole = self.runtime.block_on(self.watch.await_whole(WHOLE_WAIT_MAX));
        while let Some((number, status)) = self.cluster.ended()? {
            self.world.recorder.wrong(format!("node {number} ended by itself {when}, with {status}"))?;
        }
        Ok(match whole {
            Ok(generation) => Ok(generation),
            Err(missing) => {
                self.world.recorder.wrong(format!("not whole within {WHOLE_WAIT_MAX:?} {when}: {missing}"))?;
                Err(())
            }
        })
    }

    fn place(&self, role: Role) -> usize {
        self.runtime.block_on(self.watch.place(role))
    }

    /// Makes a fault, holds it, and ends it.
    fn perform(&mut self, Step { action, also, hold, .. }: Step) -> anyhow::Result<CacheFate> {
        let Begun { victims, others_go_on, cache } = self.begin(action)?;
        let begun = Instant::now();
        if others_go_on {
            self.others_go_on(&victims, action)?;
        }
        let Some(also) = also else {
            self.calm(hold.saturating_sub(begun.elapsed()));
            self.end(action, &victims)?;
            return Ok(cache);
        };
        self.calm((hold / 2).saturating_sub(begun.elapsed()));
        let second = self.begin(also)?;
        self.calm(hold.saturating_sub(begun.elapsed()));
        // The first to come is the last to go, so that there are times with both, with one, and with the other.
        self.end(action, &victims)?;
        self.calm(hold / 4);
        self.end(also, &second.victims)?;
        Ok(match (cache, second.victims.is_empty()) {
            // Two nodes at a time, or a leadership under way when a node was lost: what that costs is not foretold.
            (CacheFate::Kept, false) => CacheFate::Either,
            (cache, _) => cache,
        })
    }

    /// Two nodes: this one and the next.
    fn pair(&self, role: Role) -> Vec<usize> {
        let first = self.place(role);
        vec![first, (first + 1) % NODES]
    }

    fn begin(&mut self, action: Action) -> anyhow::Result<Begun> {
        use CacheFate::{Either, Kept, Lost};
        let (victims, others_go_on, cache) = match action {
            Action::KillOne(role)
            | Action::Wipe(role)
            | Action::PauseOne(role)
            | Action::Isolate(role)
            | Action::Mute(role)
            | Action::Deafen(role)
            | Action::RestartOne(role) => (vec![self.place(role)], true, Kept),
            Action::MoveClock(role, _) => (vec![self.place(role)], true, Kept),
            Action::KillTwo(role) => (self.pair(role), false, Lost),
            Action::KillAll => ((0..NODES).collect(), false, Lost),
            Action::PauseTwo(role) => (self.pair(role), false, Kept),
            Action::PauseAll => ((0..NODES).collect(), false, Kept),
            // Which of the two ends is followed on is theirs to find.
            Action::CutLink(_) | Action::FillDisk | Action::MoveClocks(_) => (Vec::new(), true, Kept),
            // Nobody has a majority, so nobody may conclude anything; when it ends, the Value Store may be faster than the Cache.
            Action::Split => (Vec::new(), false, Either),
            Action::RestartAllInTurn | Action::Transfer(_) => (Vec::new(), true, Kept),
        };
        match action {
            Action::KillOne(_) | Action::Wipe(_) | Action::KillTwo(_) | Action::KillAll => {
                victims.iter().try_for_each(|number| self.cluster.kill(*number))?;
            }
            Action::PauseOne(_) | Action::PauseTwo(_) | Action::PauseAll => {
                victims.iter().try_for_each(|number| self.cluster.signal(*number, Signal::STOP))?;
            }
            Action::Isolate(_) => self.cut(|from, to| victims.contains(&from) || victims.contains(&to))?,
            Action::Mute(_) => self.cut(|from, _| victims.contains(&from))?,
            Action::Deafen(_) => self.cut(|_, to| victims.contains(&to))?,
            Action::CutLink(role) => {
                let ends = self.pair(role);
                self.cut(|from, to| ends.contains(&from) && ends.contains(&to))?;
            }
            Action::Split => self.cut(|_, _| true)?,
            Action::FillDisk => {
                if let Some((_, disk)) = &self.cluster.means.disk {
                    disk.fill()?;
                }
                self.world.is_flooding.store(true, Ordering::Relaxed);
            }
            Action::MoveClock(_, seconds) => victims.iter().try_for_each(|number| self.set_clock(*number, seconds))?,
            Action::MoveClocks(seconds) => (0..NODES).try_for_each(|number| self.set_clock(number, seconds))?,
            Action::RestartOne(_) => victims.iter().try_for_each(|number| self.stop(*number))?,
            Action::RestartAllInTurn => {
                for number in 0..NODES {
                    self.stop(number)?;
                    self.cluster.spawn(number)?;
                    if self.await_whole(&format!("after node {number} was stopped in order"))?.is_err() {
                        break;
                    }
                }
            }
            Action::Transfer(times) => (0..times).for_each(|n| self.transfer(n)),
        }
        Ok(Begun { victims, others_go_on, cache })
    }

    fn end(&mut self, action: Action, victims: &[usize]) -> anyhow::Result<()> {
        match action {
            Action::Wipe(_) => {
                victims.iter().try_for_each(|number| self.cluster.wipe(*number))?;
                self.cluster.spawn_missing()
            }
            Action::KillOne(_) | Action::KillTwo(_) | Action::KillAll | Action::RestartOne(_) => {
                self.cluster.spawn_missing()
            }
            Action::PauseOne(_) | Action::PauseTwo(_) | Action::PauseAll => {
                victims.iter().try_for_each(|number| self.cluster.signal(*number, Signal::CONT))
            }
            Action::Isolate(_) | Action::Mute(_) | Action::Deafen(_) | Action::CutLink(_) | Action::Split => {
                self.cluster.means.network.as_mut().map_or(Ok(()), |network| network.mend())
            }
            Action::FillDisk => {
                self.world.is_flooding.store(false, Ordering::Relaxed);
                self.cluster.means.disk.as_ref().map_or(Ok(()), |(_, disk)| disk.free())
            }
            Action::MoveClock(..) | Action::MoveClocks(_) => {
                (0..NODES).try_for_each(|number| self.set_clock(number, 0))
            }
            Action::RestartAllInTurn | Action::Transfer(_) => Ok(()),
        }
    }

    /// Cuts the ways for which this holds.
    fn cut(&mut self, which: impl Fn(usize, usize) -> bool) -> anyhow::Result<()> {
        let Some(network) = &mut self.cluster.means.network else { return Ok(()) };
        let ways = (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)));
        ways.filter(|(from, to)| from != to && which(*from, *to)).try_for_each(|(from, to)| network.cut(from, to))
    }

    fn set_clock(&self, number: usize, seconds: i64) -> anyhow::Result<()> {
        self.cluster.means.clock.as_ref().map_or(Ok(()), |clock| clock.set(number, seconds))
    }

    /// Stops a node in order, which must end with 0.
    fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        match self.cluster.stop(number)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                self.world.recorder.wrong(format!("node {number} was stopped in order, and ended with {status}"))
            }
            None => self.world.recorder.wrong(format!("node {number} did not stop in time")),
        }
    }

    /// Hands the leadership to whoever follows, or to whom the cluster chooses. A refusal is an answer: it may be under way.
    fn transfer(&self, n: u64) {
        self.runtime.block_on(async {
            let to = if n == 0 { None } else { self.watch.id(self.watch.place(Role::Follower).await).await };
            for client in &self.watch.clients {
                if client.admin().transfer_leadership(to.clone()).await.is_ok() {
                    break;
                }
            }
        });
    }

    /// The nodes that are left take writes.
    fn others_go_on(&self, victims: &[usize], action: Action) -> anyhow::Result<()> {
        let writes = || self.world.recorder.writes_through((0..NODES).filter(|number| !victims.contains(number)));
        let before = writes();
        let deadline = Instant::now() + GO_ON_WAIT_MAX;
        // When the run is ended before its time, the clients have ended too.
        while writes() < before + GO_ON_WRITES && !self.world.is_over() {
            if Instant::now() > deadline {
                return self
                    .world
                    .recorder
                    .wrong(format!("no writes within {GO_ON_WAIT_MAX:?} during {action:?} of {victims:?}"));
            }
            self.calm(PACE);
        }
        Ok(())
    }
}
