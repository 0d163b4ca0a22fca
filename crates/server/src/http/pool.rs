//! What all requests of a node share, each with its bound: places in flight, bytes of bodies, bytes of answers.
//!
//! A tenant within its rate may still hold what it takes for long: it sends a body byte by byte, or does not read an answer.
//! So no scope takes more of a [`Pool`] than it leaves free: alone it gets half, two get a third each, and there is always
//! room for who comes next (the dynamic threshold of Choudhury and Hahne, 1998, made for the buffers of a switch). The
//! root key, and who is not known yet, are held to the pool alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use crate::http::error::Error;

/// An answer below this size, in bytes, counts as part of its connection's own cost.
const SMALL_ANSWER_BYTES: usize = 4 * 1024;

/// What a pool is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Places among the requests in flight.
    Places,
    /// Bytes of request bodies.
    BodyBytes,
    /// Bytes of answers that their clients have not taken.
    AnswerBytes,
}

impl Resource {
    const COUNT: usize = 3;

    fn index(self) -> usize {
        match self {
            Self::Places => 0,
            Self::BodyBytes => 1,
            Self::AnswerBytes => 2,
        }
    }
}

/// A bounded amount of something.
#[derive(Debug)]
pub(crate) struct Pool {
    resource: Resource,
    total: usize,
    left: AtomicUsize,
    /// What one scope may hold in any case, where it is left: the most that one request needs.
    least: usize,
}

impl Pool {
    /// A pool of `total`, of which one request needs `least` at most.
    pub(crate) fn new(resource: Resource, total: usize, least: usize) -> Arc<Self> {
        Arc::new(Self { resource, total, left: AtomicUsize::new(total), least })
    }

    /// How much is taken.
    pub(crate) fn taken(&self) -> usize {
        self.total - self.left.load(Ordering::Relaxed).min(self.total)
    }

    fn take(&self, amount: usize) -> Result<(), Error> {
        let left = |left: usize| left.checked_sub(amount);
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
        taken.map(drop).map_err(|_| Error::Overloaded)
    }

    fn give_back(&self, amount: usize) {
        self.left.fetch_add(amount, Ordering::AcqRel);
    }
}

/// What one scope holds of every pool.
#[derive(Debug, Default)]
pub(crate) struct Holdings([AtomicUsize; Resource::COUNT]);

impl Holdings {
    /// Counts `amount` more of what the scope holds of `pool`, which has given it already.
    fn add(&self, pool: &Pool, amount: usize) -> Result<(), Error> {
        let held = self.0[pool.resource.index()].fetch_add(amount, Ordering::AcqRel) + amount;
        if held <= pool.left.load(Ordering::Acquire).max(pool.least) {
            return Ok(());
        }
        self.subtract(pool, amount);
        Err(Error::Overloaded)
    }

    fn subtract(&self, pool: &Pool, amount: usize) {
        self.0[pool.resource.index()].fetch_sub(amount, Ordering::AcqRel);
    }
}

/// What one request has of a pool, until it is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    pool: Arc<Pool>,
    holdings: Option<Arc<Holdings>>,
    amount: usize,
}

impl Part {
    /// Nothing yet, on the account of a scope, if there is one.
    pub(crate) fn new(pool: &Arc<Pool>, holdings: Option<Arc<Holdings>>) -> Self {
        Self { pool: pool.clone(), holdings, amount: 0 }
    }

    /// Takes so much more.
    ///
    /// # Errors
    /// 503 when not so much is left, or the scope would hold more than it leaves.
    pub(crate) fn add(&mut self, amount: usize) -> Result<(), Error> {
        self.pool.take(amount)?;
        if let Some(holdings) = &self.holdings
            && let Err(error) = holdings.add(&self.pool, amount)
        {
            self.pool.give_back(amount);
            return Err(error);
        }
        self.amount += amount;
        Ok(())
    }

    /// Puts what was taken before anybody knew for whom on a scope's account.
    ///
    /// # Errors
    /// 503 when the scope would hold more than it leaves.
    pub(crate) fn charge_to(&mut self, holdings: Arc<Holdings>) -> Result<(), Error> {
        debug_assert!(self.holdings.is_none(), "it is on one account at most");
        holdings.add(&self.pool, self.amount)?;
        self.holdings = Some(holdings);
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(holdings) = &self.holdings {
            holdings.subtract(&self.pool, self.amount);
        }
        self.pool.give_back(self.amount);
    }
}

/// A piece of an answer that counts as in flight until its last byte was handed to the system, or its connection is gone.
struct Counted {
    bytes: Vec<u8>,
    _part: Part,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts an answer, or a piece of one, as in flight.
///
/// # Errors
/// 503 when too much is.
pub(crate) fn count_answer(pool: &Arc<Pool>, holdings: Option<Arc<Holdings>>, bytes: Vec<u8>) -> Result<Bytes, Error> {
    if bytes.len() <= SMALL_ANSWER_BYTES {
        return Ok(bytes.into());
    }
    room_for_answer(pool, holdings, bytes.capacity()).map(|room| room.hold(bytes))
}

/// Room for an answer that is written later, or not at all.
pub(crate) struct Room(Part);

/// Takes room for an answer of so many bytes.
///
/// # Errors
/// 503 when too much is in flight.
pub(crate) fn room_for_answer(pool: &Arc<Pool>, holdings: Option<Arc<Holdings>>, bytes: usize) -> Result<Room, Error> {
    let mut part = Part::new(pool, holdings);
    part.add(bytes)?;
    Ok(Room(part))
}

impl Room {
    /// Takes more, up to so many bytes in all.
    ///
    /// # Errors
    /// As [`room_for_answer`]; what it has it keeps until it is dropped.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        self.0.add(bytes.saturating_sub(self.0.amount))
    }

    /// The answer, for which this is the room.
    pub(crate) fn hold(self, bytes: Vec<u8>) -> Bytes {
        debug_assert!(bytes.capacity() <= self.0.amount, "it takes more than there is room for");
        Bytes::from_owner(Counted { bytes, _part: self.0 })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_takes_no_more_than_it_leaves() {
        let pool = Pool::new(Resource::Places, 12, 1);
        let fill = |holdings: &Arc<Holdings>| {
            let mut parts = Vec::new();
            loop {
                let mut part = Part::new(&pool, Some(holdings.clone()));
                match part.add(1) {
                    Ok(()) => parts.push(part),
                    Err(_) => return parts,
                }
            }
        };
        let scopes: Vec<Arc<Holdings>> = (0..3).map(|_| Arc::default()).collect();
        let first = fill(&scopes[0]);
        assert_eq!((first.len(), pool.taken()), (6, 6));
        let second = fill(&scopes[1]);
        assert_eq!((second.len(), pool.taken()), (3, 9));
        // The first is above its share now, and gets no more before it gives some back.
        assert!(Part::new(&pool, Some(scopes[0].clone())).add(1).is_err());
        assert_eq!(fill(&scopes[2]).len(), 1);
        drop((first, second));
        assert_eq!(fill(&scopes[2]).len(), 6);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn one_request_finds_room_where_there_is_any_and_what_is_left_is_no_more() {
        let pool = Pool::new(Resource::BodyBytes, 10, 8);
        let holdings = Arc::<Holdings>::default();
        let mut part = Part::new(&pool, Some(holdings.clone()));
        part.add(5).unwrap();
        part.add(3).unwrap();
        assert!(part.add(1).is_err(), "past the least, it is held to what it leaves");
        let mut root = Part::new(&pool, None);
        assert!(root.add(3).is_err());
        root.add(2).unwrap();
        assert_eq!(pool.taken(), 10);
        drop((part, root));
        assert_eq!((pool.taken(), holdings.0[Resource::BodyBytes.index()].load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn what_was_taken_for_nobody_is_put_on_an_account() {
        let pool = Pool::new(Resource::Places, 4, 1);
        let holdings = Arc::<Holdings>::default();
        let take = || {
            let mut part = Part::new(&pool, None);
            part.add(1).map(|()| part)
        };
        let mut parts = Vec::new();
        for _ in 0..2 {
            let mut part = take().unwrap();
            part.charge_to(holdings.clone()).unwrap();
            parts.push(part);
        }
        assert!(take().unwrap().charge_to(holdings.clone()).is_err());
        assert_eq!(pool.taken(), 2);
    }

    #[test]
    fn room_grows_where_there_is_any_and_is_given_back() {
        let pool = Pool::new(Resource::AnswerBytes, 100, 100);
        let mut room = room_for_answer(&pool, None, 30).unwrap();
        room.grow_to(20).unwrap();
        assert_eq!(pool.taken(), 30);
        assert!(room.grow_to(101).is_err());
        room.grow_to(100).unwrap();
        assert!(room_for_answer(&pool, None, 1).is_err());
        let answer = room.hold(vec![0; 100]);
        assert_eq!(pool.taken(), 100);
        drop(answer);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn an_answer_counts_until_its_bytes_are_gone() {
        let pool = Pool::new(Resource::AnswerBytes, 100_000, 100_000);
        let small = count_answer(&pool, None, vec![0; 100]).unwrap();
        assert_eq!(pool.taken(), 0);
        let large = count_answer(&pool, None, vec![0; 60_000]).unwrap();
        assert!(count_answer(&pool, None, vec![0; 60_000]).is_err());
        let rest = large.slice(50_000..);
        drop((small, large));
        assert_eq!(pool.taken(), 60_000);
        drop(rest);
        assert_eq!(pool.taken(), 0);
    }
}
