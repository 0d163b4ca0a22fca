//! From the log into the engine: the same on every node.
//!
//! 1. The caller, which has committed entries at hand, [begins](StateMachine::begin) one engine transaction for all of
//!    them.
//! 2. It hands over each entry with its position. An entry's commands are decided one after another, each by one
//!    function, and each answers one [`Outcome`]. A refusal changes nothing; a [`Fault`] means that the state is not
//!    known to be right: the transaction must be dropped and the node must stop.
//! 3. [Commit](Applying::commit) writes the applied row into the same transaction and makes it all visible at once. So
//!    an engine never holds an entry's change without its position, whatever it loses in a crash.

mod admin;
mod cleanup;
mod data;
mod fence;
mod foresight;
mod registry;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use storage::{Ahead, Engine, KeyRange, Read};

use crate::{
    applied::{Applied, Membership},
    command::{Admitted, Batch, Command, Data},
    hash::StateHash,
    ids::{Keyspace, Position},
    layout::{self, damaged},
    outcome::{Done, Fault, Outcome, Rejection},
    query::Reader,
    rows::{Rows, Stop},
    snapshot,
};

/// One group's state machine: the only writer of its engine.
pub struct StateMachine<E: Engine> {
    shared: Shared<E>,
    applied: Applied,
}

/// What a snapshot has made of the engine; the state machine does not know of it yet.
#[derive(Debug)]
#[must_use = "a state machine that goes on without it applies to the state of before"]
pub struct Installed(Applied);

/// What readers on other threads hold of a state machine: cheap to clone.
pub struct Shared<E: Engine> {
    engine: Arc<E>,
    keyspace: Keyspace,
    control_version: Arc<AtomicU64>,
}

impl<E: Engine> StateMachine<E> {
    /// Takes over an engine. An empty one becomes a new state of `keyspace`, of which the engine holds nothing before
    /// the first commit. Fails when the engine holds something else, or a format of a later version.
    pub fn open(engine: Arc<E>, keyspace: Keyspace) -> Result<Self, Fault> {
        let view = engine.view();
        let applied = match layout::load::<Applied>(&view, &layout::APPLIED_KEY)? {
            Some(applied) if applied.keyspace == keyspace => applied,
            Some(_) => return Err(damaged("the applied row", "it is the other store's")),
            None if view.scan(KeyRange::prefix(&[])).next().is_some() => {
                return Err(damaged("the applied row", "it is missing, and the engine is not empty"));
            }
            None => Applied::new(keyspace),
        };
        Ok(Self { shared: Shared { engine, keyspace, control_version: Arc::default() }, applied })
    }

    /// How far the last commit came.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Begins one engine transaction for as many entries as the caller has at hand.
    pub fn begin(&mut self) -> Applying<'_, E> {
        Applying::new(self.shared.engine.begin(), &self.shared.control_version, &mut self.applied)
    }

    /// As [`StateMachine::begin`], with what [`Shared::look_ahead`] has found.
    pub fn begin_with(&mut self, ahead: Ahead<E::View>) -> Applying<'_, E> {
        Applying::new(self.shared.engine.begin_with(ahead), &self.shared.control_version, &mut self.applied)
    }

    /// Replaces the whole state by a snapshot's, whose bytes come in pieces of any size. After an error the state is
    /// as before. A durable engine returns when the new state is durable.
    pub fn install(&mut self, pieces: impl Iterator<Item = std::io::Result<Vec<u8>>>) -> Result<(), snapshot::Error> {
        let installed = self.shared.install(pieces)?;
        self.adopt(installed);
        Ok(())
    }

    /// Goes on from what [`Shared::install`] has put into the engine. Nothing may be applied in between.
    pub fn adopt(&mut self, installed: Installed) {
        self.applied = installed.0;
        self.shared.control_version.fetch_add(1, Ordering::Release);
    }

    /// A reader of the newest commit.
    pub fn reader(&self) -> Reader<E::View> {
        self.shared.reader()
    }

    /// A reader of what the last checkpoint made durable: what a restart would find.
    pub fn checkpointed(&self) -> Reader<E::View> {
        Reader::new(self.shared.engine.checkpointed(), self.shared.keyspace)
    }

    /// The engine, for its checkpoints.
    pub fn engine(&self) -> &Arc<E> {
        &self.shared.engine
    }

    /// What readers on other threads hold.
    pub fn shared(&self) -> Shared<E> {
        self.shared.clone()
    }
}

impl<E: Engine> Shared<E> {
    /// A reader of the newest commit. Takes no lock.
    pub fn reader(&self) -> Reader<E::View> {
        self.reader_of(self.engine.view())
    }

    /// A reader of a view of this state's engine.
    pub fn reader_of(&self, view: E::View) -> Reader<E::View> {
        Reader::new(view, self.keyspace)
    }

    /// Looks up the rows that tenants' writes of `batches` are about, up to so many bytes, as the last checkpoint left them: for
    /// another thread than the one that applies what comes before.
    pub fn look_ahead<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
        bytes_max: usize,
    ) -> Result<Ahead<E::View>, Fault> {
        let writes = batches
            .flat_map(|batch| &batch.commands)
            .filter_map(|command| write_of(self.keyspace, command))
            .flat_map(|(data, _)| data.writes.iter().map(|write| (data.scope, write.key())));
        let keys = writes.map(|(scope, key)| layout::value_key(self.keyspace, scope, key.as_bytes()));
        Ok(Ahead::look_up(self.engine.checkpointed(), keys, bytes_max)?)
    }

    /// The part of [`StateMachine::install`] that takes long, for a thread that may block: the engine's content is
    /// replaced when it returns, and the state machine must [adopt](StateMachine::adopt) it before anything else.
    pub fn install(
        &self,
        pieces: impl Iterator<Item = std::io::Result<Vec<u8>>>,
    ) -> Result<Installed, snapshot::Error> {
        snapshot::install(self.engine.as_ref(), self.keyspace, pieces).map(Installed)
    }

    /// A counter that has grown when the commit of a change of keys, aliases or limits, or a replacement of the whole
    /// state, returns. Who keeps what he read of them compares it: read the counter first, then the reader, so that
    /// what is kept is never older than the counter kept with it.
    pub fn control_version(&self) -> u64 {
        self.control_version.load(Ordering::Acquire)
    }
}

// Derived, it would ask for an engine that can be cloned.
impl<E: Engine> Clone for Shared<E> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            keyspace: self.keyspace,
            control_version: Arc::clone(&self.control_version),
        }
    }
}

/// What one entry of the log holds for the state machine.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A membership, as the consensus layer encodes it.
    Membership(&'a [u8]),
    /// Commands.
    Batch(&'a Batch),
}

/// Entries being applied, in one engine transaction. Dropping it discards them.
pub struct Applying<'a, E: Engine> {
    rows: Rows<E::Transaction<'a>>,
    next: Applied,
    control_changed: bool,
    control_version: &'a AtomicU64,
    applied: &'a mut Applied,
}

impl<'a, E: Engine> Applying<'a, E> {
    fn new(transaction: E::Transaction<'a>, control_version: &'a AtomicU64, applied: &'a mut Applied) -> Self {
        Self {
            rows: Rows::new(transaction, applied.state_hash, applied.totals),
            next: applied.clone(),
            control_changed: false,
            control_version,
            applied,
        }
    }

    /// Applies one entry, and answers one outcome a command, in order. After a fault, drop this and stop the node.
    pub fn apply(&mut self, position: Position, payload: Payload<'_>) -> Result<Vec<Outcome>, Fault> {
        if let Some(applied) = self.next.position
            && (position.index <= applied.index || position.term < applied.term)
        {
            return Err(Fault::OutOfOrder { applied: applied.index, found: position.index });
        }
        self.next.position = Some(position);
        match payload {
            Payload::Blank => Ok(Vec::new()),
            Payload::Membership(bytes) => {
                self.next.membership = Some(Membership { position, bytes: bytes.into() });
                Ok(Vec::new())
            }
            Payload::Batch(batch) => {
                // A new leader's clock may be behind the last one's: time stands still until it has caught up.
                self.next.time_unix_ms = self.next.time_unix_ms.max(batch.time_unix_ms);
                self.commands(&batch.commands)
            }
        }
    }

    fn commands(&mut self, commands: &[Command]) -> Result<Vec<Outcome>, Fault> {
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut run: Option<data::Run> = None;
        for command in commands {
            let write = write_of(self.next.keyspace, command);
            if let Some(ended) = run.take_if(|run| write.is_none_or(|(data, _)| data.scope != run.scope())) {
                ended.close(&mut self.rows)?;
            }
            outcomes.push(match write {
                Some((data, control_index)) => {
                    let run = match &mut run {
                        Some(run) => run,
                        None => run.insert(data::Run::open(&self.rows, self.next.keyspace, data.scope)?),
                    };
                    Outcome::Data(run.apply(&mut self.rows, data, control_index)?)
                }
                None => self.command(command)?,
            });
        }
        run.map_or(Ok(()), |run| run.close(&mut self.rows))?;
        Ok(outcomes)
    }

    /// Whatever is no write of a tenant.
    fn command(&mut self, command: &Command) -> Result<Outcome, Fault> {
        let (keyspace, rows) = (self.next.keyspace, &mut self.rows);
        let decided = match command {
            // Those that this group takes are `write_of`'s.
            Command::Data(_) | Command::Admitted(_) => Err(Rejection::WrongGroup.into()),
            Command::Fence(fence) => fence::apply(rows, keyspace, *fence),
            Command::Admin(admin) => {
                let done = admin::apply(rows, keyspace, admin, self.next.time_unix_ms);
                self.control_changed |= done.is_ok();
                done
            }
            Command::Cleanup(cleanup) => cleanup::apply(rows, keyspace, cleanup),
            Command::Registry(change) => registry::apply(rows, keyspace, change),
        };
        outcome(decided)
    }

    /// The state's hash behind the entries applied so far.
    pub fn state_hash(&self) -> StateHash {
        self.rows.hash()
    }

    /// Makes everything visible at once, with the position of the last entry. Durability is the engine's own matter.
    pub fn commit(mut self) -> Result<(), Fault> {
        self.next.state_hash = self.rows.hash();
        self.next.totals = self.rows.totals();
        self.rows.commit(&layout::encode(&self.next))?;
        *self.applied = self.next;
        if self.control_changed {
            self.control_version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

/// A tenant's write that the group of `keyspace` takes, with up to where its caller was known.
fn write_of(keyspace: Keyspace, command: &Command) -> Option<(&Data, u64)> {
    match command {
        Command::Data(data) => Some((data, 0)),
        Command::Admitted(Admitted { data, control_index }) if keyspace == Keyspace::Cache => {
            Some((data, *control_index))
        }
        _ => None,
    }
}

/// What comes of a command that is refused for its condition alone, as `read` shows it; see [`Reader::refusal`].
pub(crate) fn refusal(read: &impl Read, keyspace: Keyspace, command: &Command) -> Result<Option<Outcome>, Fault> {
    let Some((data, control_index)) = write_of(keyspace, command) else { return Ok(None) };
    Ok(foresight::refusal(read, keyspace, data, control_index)?.map(Outcome::Data))
}

fn outcome(decided: Result<Done, Stop>) -> Result<Outcome, Fault> {
    match decided {
        Ok(done) => Ok(Outcome::Done(done)),
        Err(Stop::Refused(rejection)) => Ok(Outcome::Refused(rejection)),
        Err(Stop::Failed(fault)) => Err(fault),
    }
}
