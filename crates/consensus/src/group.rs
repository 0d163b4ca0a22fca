//! One Raft group: a log, a state machine and what lies between. The node builds it twice.

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    Config, Raft, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{InitializeError, RaftError},
    storage::RaftLogStorage,
};
use state::{
    apply::{Shared, StateMachine},
    hash::StateHash,
    query::Reader,
};
use storage::Engine;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::{
    Error,
    checkpoint::{CheckpointStatus, Checkpointer, Source},
    env::Env,
    forward::Forwarder,
    gate::{CheckpointPolicy, DiskFull, Gate},
    heartbeat,
    hold::{self, Hold},
    lag::{Cuts, Cuttable},
    leaders,
    log::LocalLog,
    opening::{self, check_that_state_is_ours, join_log_and_state},
    purge::Pins,
    read::Reads,
    reapply::reapply,
    room::Room,
    state_machine::{Machine, Samples},
    submit::Submitter,
    transport::{
        contact::Contact,
        inbound_snapshot::Arrivals,
        leading::Leading,
        network::{Network, Peers},
        silence::{self, Silence},
        wire::{GroupId, Wire},
    },
    types::{LogId, MemberId, Peer, TypeConfig, Vote},
    watchdog::Watchdog,
};

/// How long an orderly stop waits for the log to be purged.
const PURGE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is added to a lease where clocks that run at different speeds must not matter.
const LEASE_MARGIN: Duration = Duration::from_millis(50);

/// What a group is started with.
#[derive(Clone)]
pub struct Options {
    /// Which group, and which generation of it.
    pub group: GroupId,
    /// Which member this process is.
    pub member: MemberId,
    /// How often the leader is heard from.
    pub heartbeat: Duration,
    /// The least time without a leader before an election; the greatest is twice that, and is the leader's lease.
    pub election_timeout: Duration,
    /// When checkpoints are made.
    pub checkpoints: CheckpointPolicy,
    /// Whether the log has no room to grow.
    pub log_disk_full: DiskFull,
    /// How long after its start this member, when it leads, serves nothing: while a member of an older generation may
    /// still serve (`ARCHITECTURE.md`, the volatile group, rule 4).
    pub quiet: Duration,
    /// The directory in which a snapshot on its way in is kept until it is whole; `None` keeps it in memory.
    pub spool: Option<PathBuf>,
    /// The most bytes of keys and values that the leader lets the state hold: past it, writes that need room are refused.
    /// `u64::MAX` is no bound.
    pub state_bytes_max: u64,
}

impl Options {
    /// The group's name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self.group {
            GroupId::Values => "values",
            GroupId::Cache { .. } => "cache",
        }
    }
}

/// What a member knows of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub member: MemberId,
    /// The leader, when one is known.
    pub leader: Option<MemberId>,
    /// Whether this member leads.
    pub is_leader: bool,
    /// The current term.
    pub term: u64,
    /// The last index in this member's log.
    pub last_index: u64,
    /// The last index that this member has applied.
    pub applied_index: u64,
}

/// A handle on a running group; clones share it.
pub struct Group<E: Engine> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Engine> {
    id: GroupId,
    contact: Arc<Contact>,
    leading: Arc<Leading>,
    samples: Arc<Samples>,
    hold: Hold,
    quiet_until: Instant,
    arrivals: Arrivals,
    raft: Raft<TypeConfig, Machine<E>>,
    shared: Shared<E>,
    source: Source<E>,
    installs: Arc<AtomicU64>,
    submitter: Submitter,
    reads: Reads,
    gate: Arc<Gate>,
    room: Room,
    tasks: [AbortHandle; 2],
    checkpoints: watch::Receiver<CheckpointStatus>,
    /// What has stopped the group beside openraft; the first of it.
    fault: watch::Sender<Option<String>>,
}

impl<E: Engine> Clone for Group<E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<E: Engine> Group<E> {
    /// Starts a member on the current runtime, which becomes the group's: nothing else may keep it busy.
    ///
    /// # Errors
    /// A sentence for people, when the log or the state cannot be read, or do not fit together.
    pub async fn start<L, W>(
        options: Options,
        mut log: L,
        wire: W,
        machine: StateMachine<E>,
        env: Arc<dyn Env>,
    ) -> Result<Self, String>
    where
        L: RaftLogStorage<TypeConfig> + LocalLog + Clone,
        W: Wire,
    {
        let vote = opening::vote(&options, &mut log).await?;
        check_that_state_is_ours(&options, machine.applied(), vote.as_ref(), &mut log).await?;
        join_log_and_state(&options, &mut log, machine.applied().position).await?;
        let shared = machine.shared();
        let engine = machine.engine().clone();
        let gate = Arc::new(Gate::new(options.checkpoints, options.log_disk_full.clone()));
        let local_log: Arc<dyn LocalLog> = Arc::new(log.clone());
        let source = Source {
            engine,
            shared: shared.clone(),
            log: local_log.clone(),
            env: env.clone(),
            pins: Pins::default(),
            cuts: Cuts::default(),
        };
        let mut machine = Machine::new(machine, gate.clone(), local_log.clone(), source.pins.clone(), env.clone());
        reapply(&mut machine, &mut log, &env)
            .await
            .map_err(|error| format!("the {} group cannot start: {error}", options.name()))?;
        let (samples, installs) = (machine.samples(), machine.installs());
        let peers = Peers::new(options.group, options.member, wire.clone());
        let contact = Arc::<Contact>::default();
        // The greatest election time-out is openraft's lease.
        let leading = Arc::new(Leading::new(options.election_timeout * 2));
        let network = Network {
            group: options.group,
            member: options.member,
            wire: Cuttable { wire, cuts: source.cuts.clone() },
            peers: peers.clone(),
            contact: contact.clone(),
            leading: leading.clone(),
            silence: Silence::new(options.election_timeout),
            env: env.clone(),
            engine: PhantomData::<fn() -> E>,
        };
        let has_voted = vote.is_some();
        let arrivals = Arrivals::new(options.spool.clone())
            .map_err(|error| format!("cannot remove an old snapshot of the {} group: {error}", options.name()))?;
        let config = raft_config(&options, has_voted)?;
        let raft = Raft::new(options.member, Arc::new(config), network, log, machine)
            .await
            .map_err(|fault| format!("the {} group cannot start: {fault}", options.name()))?;
        contact.follow(raft.metrics());
        leading.follow(raft.metrics());
        let lease = options.election_timeout * 2 + LEASE_MARGIN;
        let is_held = has_voted
            && hold::is_needed(&raft)
                .await
                .map_err(|fault| format!("the {} group cannot start: {fault}", options.name()))?;
        let hold = Hold::new(is_held.then_some(lease));
        tokio::spawn(heartbeat::keep_pace(raft.clone(), options.heartbeat));
        tokio::spawn(leaders::tell(raft.clone(), options.name()));
        let watchdog = Watchdog::new(raft.clone(), local_log, hold, options.name());
        let watchdog = tokio::spawn(watchdog.run()).abort_handle();

        let status = CheckpointStatus { at: Instant::now(), took: Duration::ZERO, count: 0 };
        let (status, checkpoints) = watch::channel(status);
        let fault = watch::Sender::<Option<String>>::default();
        let checkpointer = Checkpointer { raft: raft.clone(), source: source.clone(), gate: gate.clone(), status };
        let of_checkpoints = fault.clone();
        let checkpointer = tokio::spawn(async move {
            note_first(&of_checkpoints, checkpointer.run().await.to_string());
        });
        let submitter =
            Submitter::start(raft.clone(), Forwarder::new(peers.clone(), raft.server_metrics()), gate.clone(), env);
        let tasks = [checkpointer.abort_handle(), watchdog];
        let reads = Reads::start(raft.clone(), peers, gate.clone());
        let id = options.group;
        let quiet_until = Instant::now() + options.quiet;
        let room = Room::new(options.state_bytes_max);
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                samples,
                contact,
                leading,
                hold,
                quiet_until,
                arrivals,
                raft,
                shared,
                source,
                installs,
                submitter,
                reads,
                gate,
                room,
                tasks,
                checkpoints,
                fault,
            }),
        })
    }

    /// The world around the group.
    pub(crate) fn env(&self) -> &dyn Env {
        &*self.inner.source.env
    }

    /// Whether the group has ever had a membership.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn is_founded(&self) -> Result<bool, Error> {
        self.inner.raft.is_initialized().await.map_err(|_| Error::Stopped)
    }

    /// Which group, and which generation of it.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Which member this is.
    pub fn member(&self) -> MemberId {
        *self.inner.raft.node_id()
    }

    pub(crate) fn contact(&self) -> &Contact {
        &self.inner.contact
    }

    pub(crate) fn leading(&self) -> &Leading {
        &self.inner.leading
    }

    pub(crate) fn log(&self) -> &dyn LocalLog {
        &*self.inner.source.log
    }

    pub(crate) fn hold(&self) -> &Hold {
        &self.inner.hold
    }

    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.inner.arrivals
    }

    /// When a leader may serve: see [`Options::quiet`].
    pub(crate) fn quiet_until(&self) -> Instant {
        self.inner.quiet_until
    }

    /// The bound on what the state holds in memory.
    pub(crate) fn room(&self) -> &Room {
        &self.inner.room
    }

    pub(crate) fn submitter(&self) -> &Submitter {
        &self.inner.submitter
    }

    /// Whether a message under this vote is the present leader's, or a newer one's.
    pub(crate) fn knows_as_leader(&self, vote: &Vote) -> bool {
        *vote >= self.inner.raft.metrics().borrow_watched().vote
    }

    /// This member's vote, when it is newer than the one of a message.
    pub(crate) fn newer_vote(&self, vote: &Vote) -> Option<Vote> {
        let own = self.inner.raft.metrics().borrow_watched().vote;
        (own > *vote).then_some(own)
    }

    /// Whether this member has applied the entry, which is committed.
    pub(crate) fn has_applied(&self, log_id: Option<LogId>) -> bool {
        self.inner.raft.metrics().borrow_watched().last_applied >= log_id
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, Machine<E>> {
        &self.inner.raft
    }

    /// Founds the group with these voters, this member among them. Where there are several, each founds it with the
    /// same ones; a group that is founded already stays as it is. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn found(&self, members: BTreeMap<MemberId, Peer>) -> Result<(), Error> {
        match self.inner.raft.initialize(members).await {
            // Another of the voters was quicker, and its election has come: its log brings the same membership.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(_) => Err(Error::Stopped),
        }
    }

    /// Waits until this member serves linearizable reads, from itself or through its leader.
    ///
    /// # Errors
    /// [`Error::NoLeader`] when the time is up first.
    pub async fn await_serving(&self, wait_max: Duration) -> Result<(), Error> {
        let known = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.current_leader.is_some();
        let found = self.inner.raft.wait(Some(wait_max)).metrics(known, "a leader").await;
        found.map_err(|_| Error::NoLeader)?;
        self.read(Instant::now() + wait_max).await.map(drop)
    }

    /// The state on this member, holding everything that was acknowledged before this call.
    ///
    /// # Errors
    /// When this member cannot prove by the deadline that it has that; [`Error::DiskFull`] long before it when this member has no
    /// room to take in what it lacks.
    pub async fn read(&self, deadline: Instant) -> Result<Reader<E::View>, Error> {
        if !self.may_answer() {
            // Few wait here, and in no box all would carry what it takes.
            Box::pin(self.inner.reads.await_linearizable(self, deadline)).await?;
        }
        Ok(self.local())
    }

    /// Whether this member's state, looked at from now on, holds everything that was acknowledged before: proved here and
    /// now, without a question to anybody.
    pub(crate) fn may_answer(&self) -> bool {
        Instant::now() >= self.quiet_until() && self.leading().may_answer()
    }

    /// How long ago this member last heard that its state was the leader's: what a stale read says of itself. None
    /// when it never did. The leader's own is the age of its last quorum.
    pub fn staleness(&self) -> Option<Duration> {
        self.inner.contact.staleness()
    }

    /// How long ago the group's leader last had a quorum behind it, as far as this member has heard: from its own
    /// clock when it leads, else from what the leader's messages say, aged since. None when it never heard.
    pub fn quorum_age(&self) -> Option<Duration> {
        self.inner.contact.quorum_age()
    }

    /// How long ago a member last showed that it has lost what it had acknowledged to this one as its leader: it has
    /// forgotten what it promised, and must not go on as itself. None when it never did, or has everything again.
    pub fn gone_back_age(&self, member: MemberId) -> Option<Duration> {
        self.inner.contact.gone_back_age(member)
    }

    /// The state's hash after the entry at `index`, if that is among the newest that this member has applied.
    pub fn hash_at(&self, index: u64) -> Option<StateHash> {
        self.inner.samples.at(index)
    }

    /// The state as far as this member has applied it.
    pub fn local(&self) -> Reader<E::View> {
        self.inner.shared.reader()
    }

    /// A number that has grown by the time that a change of keys, aliases or limits is acknowledged.
    pub fn control_version(&self) -> u64 {
        self.inner.shared.control_version()
    }

    /// Whether writes are refused for want of disk space.
    pub fn is_disk_full(&self) -> bool {
        self.inner.gate.disk_full()
    }

    /// Notes whether so many voters have full disks, or are silent beside one that has, that nothing which needs room can be
    /// committed. Until that is taken back, this member refuses at once what needs room, if it leads.
    pub fn note_majority(&self, lacks_room: bool) {
        if self.inner.gate.note_majority(lacks_room) {
            if lacks_room {
                tracing::error!("no majority has room on its disks: writes are refused until there is room");
            } else {
                tracing::info!("a majority has room again: writes go on");
            }
        }
    }

    /// What this member knows of its group.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            member: metrics.id,
            leader: metrics.current_leader,
            is_leader: metrics.state.is_leader(),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |log_id| log_id.index()),
        }
    }

    /// How many snapshots of other members this one has installed since its start.
    pub fn installs(&self) -> u64 {
        self.inner.installs.load(Ordering::Relaxed)
    }

    /// What the checkpointer has done since the start.
    pub fn checkpoints(&self) -> CheckpointStatus {
        *self.inner.checkpoints.borrow()
    }

    /// Returns when the group has stopped on a fault, with a sentence for people: the node must stop then.
    pub async fn fault(&self) -> String {
        let mut fault = self.inner.fault.subscribe();
        let noted = async {
            // The sender lives in `self`.
            fault.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone()).unwrap_or_default()
        };
        tokio::select! {
            biased;
            fault = noted => fault,
            fault = self.raft_fault() => fault,
        }
    }

    async fn raft_fault(&self) -> String {
        // Seldom anything is new here, and it ends with the group: the metrics proper change with each entry and read.
        let mut news = self.inner.raft.server_metrics();
        while news.changed().await.is_ok() {}
        let metrics = self.inner.raft.metrics();
        match &metrics.borrow_watched().running_state {
            Err(fault) => fault.to_string(),
            Ok(()) => "Raft has ended without a reason: by a panic, of which the log tells above".to_owned(),
        }
    }

    /// Stops the group for a reason: [`Group::fault`] returns with it.
    pub(crate) fn condemn(&self, reason: String) {
        note_first(&self.inner.fault, reason);
    }

    /// Makes a checkpoint now and lets the log be purged up to it; for an orderly stop.
    ///
    /// # Errors
    /// The engine's, a full disk included: nothing is lost then, the next start re-applies the log.
    pub async fn checkpoint(&self) -> Result<(), storage::Error> {
        self.inner.source.checkpoint_at_once().await?;
        // A log that cannot be purged now keeps what the next start does not need: no harm but to its length.
        if let Some(upto) = self.inner.source.purge(&self.inner.raft).await? {
            let purged = |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.purged.as_ref().is_some_and(|purged| purged.index >= upto)
            };
            drop(self.inner.raft.wait(Some(PURGE_WAIT_MAX)).metrics(purged, "the log to be purged").await);
        }
        Ok(())
    }

    /// Stops the member: takes no more proposals, lets openraft end its tasks.
    pub async fn shutdown(&self) {
        for task in &self.inner.tasks {
            task.abort();
        }
        // It fails only when the core task has panicked: there is nothing left to stop then.
        drop(self.inner.raft.shutdown().await);
    }
}

/// Notes why the group must stop; what came first is the reason.
fn note_first(fault: &watch::Sender<Option<String>>, reason: String) {
    fault.send_if_modified(|noted| {
        let is_first = noted.is_none();
        if is_first {
            *noted = Some(reason);
        }
        is_first
    });
}

fn raft_config(options: &Options, has_voted: bool) -> Result<Config, String> {
    let answer_wait_max = heartbeat::answer_wait_max(options.heartbeat, options.election_timeout);
    let election_timeout_min = options.election_timeout.as_millis() as u64;
    let config = Config {
        cluster_name: options.name().to_owned(),
        // Not how often they are sent, but how long their answers may take (`heartbeat.rs`).
        heartbeat_interval: answer_wait_max.as_millis() as u64,
        election_timeout_min,
        election_timeout_max: election_timeout_min * 2,
        enable_pre_vote: Some(true),
        // Checkpoints are ours to time, and each becomes a snapshot.
        snapshot_policy: SnapshotPolicy::Never,
        enable_elect: !has_voted,
        // A leader that restarts is a follower: its lease has ended, and somebody else's may have begun.
        enable_leader_restore: Some(false),
        // Its heartbeats; for all else see `transport/silence.rs`.
        quorum_loss_probe_interval: Some(silence::turn(options.election_timeout).as_millis() as u64),
        // What is purged is ours to say too: openraft counts entries, and what matters is bytes.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        ..Config::default()
    };
    config.validate().map_err(|error| format!("the {} group's timing is not valid: {error}", options.name()))
}
