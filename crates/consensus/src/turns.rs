//! Whose turn it is among the commands that wait.
//!
//! In the order of arrival, who brings the most bytes rules the queue: behind fifty values of a mebibyte each, a small write of
//! another tenant would wait for seconds. So each scope has a line of its own, and the lines take turns by bytes (deficit
//! round robin: Shreedhar and Varghese, 1995): a line at its turn gets [`QUANTUM_BYTES`] of credit, and what it has credit for
//! goes. Within a scope the order of arrival stays. What belongs to no scope, an operator's changes and the groups' own, is a
//! line as well.

use std::collections::{HashMap, VecDeque};

use state::{
    bounds::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX},
    command::Command,
    ids::ScopeId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::submit::Answer;

/// What a line may send at its turn, in bytes: some dozens of small writes.
const QUANTUM_BYTES: usize = 16 * 1024;
/// Commands that may stand in lines; as many more may wait in the queue, in the order of arrival.
const IN_LINES_MAX: usize = 16_384;

/// Ended lines whose memory the next ones get: a tenant that writes has a new line for each entry.
const SPARE_LINES_MAX: usize = 16;
/// Commands for which such a line may have memory.
const SPARE_COMMANDS_MAX: usize = 128;

/// A command on its way into the log.
pub(crate) struct Waiting {
    pub(crate) command: Command,
    pub(crate) bytes: usize,
    /// Until when its caller waits.
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// One scope's commands.
struct Line {
    waiting: VecDeque<Waiting>,
    credit_bytes: usize,
}

/// The receiving end of a queue.
pub(crate) struct Turns {
    queue: mpsc::Receiver<Waiting>,
    lines: HashMap<Option<ScopeId>, Line>,
    /// Whose lines are not empty, in the order of their turns.
    round: VecDeque<Option<ScopeId>>,
    in_lines: usize,
    /// Empty.
    spare: Vec<VecDeque<Waiting>>,
}

impl Turns {
    pub(crate) fn new(queue: mpsc::Receiver<Waiting>) -> Self {
        Self { queue, lines: HashMap::new(), round: VecDeque::new(), in_lines: 0, spare: Vec::new() }
    }

    /// Returns when something waits; false when nothing does and nobody holds the queue any more.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.in_lines == 0 {
            match self.queue.recv().await {
                Some(waiting) => self.line_up(waiting),
                None => return false,
            }
        }
        true
    }

    /// What goes together next, of all that is waiting now: as many commands and bytes as one entry may have, and at least
    /// one command when one waits.
    pub(crate) fn take(&mut self) -> Vec<Waiting> {
        while self.in_lines < IN_LINES_MAX
            && let Ok(waiting) = self.queue.try_recv()
        {
            self.line_up(waiting);
        }
        let mut together = Vec::with_capacity(self.in_lines.min(BATCH_COMMANDS_MAX));
        let mut bytes = 0;
        while together.len() < BATCH_COMMANDS_MAX
            && let Some(next_bytes) = self.turn()
            && (together.is_empty() || bytes + next_bytes <= BATCH_BYTES_MAX)
        {
            bytes += next_bytes;
            together.extend(self.pop());
        }
        together
    }

    fn line_up(&mut self, waiting: Waiting) {
        let scope = waiting.command.scope();
        let new = || Line { waiting: self.spare.pop().unwrap_or_default(), credit_bytes: 0 };
        let line = self.lines.entry(scope).or_insert_with(new);
        if line.waiting.is_empty() {
            self.round.push_back(scope);
        }
        line.waiting.push_back(waiting);
        self.in_lines += 1;
    }

    /// Passes the turn on until it is a line's that has credit for its first command; how large that is. None when nothing
    /// stands in a line.
    fn turn(&mut self) -> Option<usize> {
        loop {
            let line = self.lines.get_mut(self.round.front()?)?;
            let bytes = line.waiting.front()?.bytes;
            if bytes <= line.credit_bytes {
                return Some(bytes);
            }
            line.credit_bytes += QUANTUM_BYTES;
            self.round.rotate_left(1);
        }
    }

    /// Takes the first command of the line whose turn it is.
    fn pop(&mut self) -> Option<Waiting> {
        let scope = *self.round.front()?;
        let line = self.lines.get_mut(&scope)?;
        let waiting = line.waiting.pop_front()?;
        line.credit_bytes = line.credit_bytes.saturating_sub(waiting.bytes);
        if line.waiting.is_empty() {
            // Who has nothing to send saves nothing up.
            let waiting = self.lines.remove(&scope).map(|line| line.waiting);
            let small = waiting.filter(|waiting| waiting.capacity() <= SPARE_COMMANDS_MAX);
            self.spare.extend(small.filter(|_| self.spare.len() < SPARE_LINES_MAX));
            self.round.pop_front();
        }
        self.in_lines -= 1;
        Some(waiting)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use state::{
        command::{Cleanup, Data},
        ids::ApiKeyId,
    };
    use uuid::Uuid;

    use super::*;

    fn waiting(scope: u128, bytes: usize) -> Waiting {
        let scope = ScopeId(Uuid::from_u128(scope));
        let data = Data { scope, api_key: ApiKeyId::ROOT, request: None, quota_bytes: None, writes: Vec::new() };
        let deadline = Instant::now() + Duration::from_secs(60);
        Waiting { command: Command::Data(data), bytes, deadline, answer: oneshot::channel().0 }
    }

    fn turns(commands: impl IntoIterator<Item = Waiting>) -> (mpsc::Sender<Waiting>, Turns) {
        let (queue, turns) = mpsc::channel(100_000);
        for waiting in commands {
            queue.try_send(waiting).unwrap_or_else(|_| panic!("the queue is full"));
        }
        (queue, Turns::new(turns))
    }

    /// Whose commands go next, and how large they are.
    fn take(turns: &mut Turns) -> Vec<(u128, usize)> {
        let scope = |waiting: &Waiting| waiting.command.scope().unwrap().0.as_u128();
        turns.take().iter().map(|waiting| (scope(waiting), waiting.bytes)).collect()
    }

    #[test]
    fn small_commands_do_not_wait_behind_anothers_large_ones() {
        let large = (0..50).map(|_| waiting(1, 1 << 20));
        let (_queue, mut turns) = turns(large.chain((0..300).map(|_| waiting(2, 300))));
        let mut before = 0;
        let mut small = 0;
        while small < 300 {
            let entry = take(&mut turns);
            small += entry.iter().filter(|(scope, _)| *scope == 2).count();
            before += entry.iter().filter(|(scope, _)| *scope == 1).count();
        }
        assert!(before <= 1, "{before} large ones went before");
        assert_eq!(take(&mut turns), [(1, 1 << 20)]);
    }

    #[test]
    fn who_brings_small_ones_again_and_again_does_not_starve_a_large_one() {
        let (queue, mut turns) = turns([waiting(1, 1 << 20)]);
        for entries in 1.. {
            for _ in 0..BATCH_COMMANDS_MAX {
                drop(queue.try_send(waiting(2, 2_000)));
            }
            if take(&mut turns).contains(&(1, 1 << 20)) {
                return;
            }
            assert!(entries < 10, "the large one waits on");
        }
    }

    #[test]
    fn a_scopes_own_order_stays_and_lines_share_by_bytes() {
        let of = |scope: u128, sizes: [usize; 3]| sizes.map(|bytes| waiting(scope, bytes));
        let (_queue, mut turns) = turns(of(1, [10, 20, 30]).into_iter().chain(of(2, [11, 21, 31])));
        let entry = take(&mut turns);
        for scope in [1, 2] {
            let order: Vec<usize> = entry.iter().filter(|(of, _)| *of == scope).map(|(_, bytes)| bytes / 10).collect();
            assert_eq!(order, [1, 2, 3]);
        }
        // Of two that both have enough for many entries, each gets half.
        let many = |scope: u128, bytes: usize, count: usize| (0..count).map(move |_| waiting(scope, bytes));
        let (_queue, mut turns) = self::turns(many(1, 8_000, 1_000).chain(many(2, 4_000, 2_000)));
        let mut bytes = [0, 0];
        for _ in 0..4 {
            for (scope, size) in take(&mut turns) {
                bytes[usize::try_from(scope).unwrap() - 1] += size;
            }
        }
        assert!(bytes[0].abs_diff(bytes[1]) <= 2 * QUANTUM_BYTES, "{bytes:?}");
    }

    #[test]
    fn an_entry_keeps_to_its_bounds_and_nothing_is_left_over() {
        let sizes = [1 << 20, 500_000, 600_000, 2 << 20, 100];
        let (queue, mut turns) = turns(sizes.map(|bytes| waiting(7, bytes)));
        let entries: Vec<usize> = std::iter::repeat_with(|| take(&mut turns).len()).take(6).collect();
        assert_eq!(entries, [1, 1, 1, 1, 1, 0]);
        for _ in 0..BATCH_COMMANDS_MAX + 1 {
            queue.try_send(waiting(7, 1)).unwrap_or_else(|_| panic!("the queue is full"));
        }
        assert_eq!(take(&mut turns).len(), BATCH_COMMANDS_MAX);
        assert_eq!(take(&mut turns).len(), 1);
        assert!(turns.lines.is_empty() && turns.round.is_empty() && turns.in_lines == 0);
    }

    #[test]
    fn the_memory_of_ended_lines_is_kept_for_few_and_short_ones() {
        let (queue, mut turns) = turns((0..2 * SPARE_LINES_MAX as u128).map(|scope| waiting(scope, 1)));
        while !take(&mut turns).is_empty() {}
        assert_eq!(turns.spare.len(), SPARE_LINES_MAX);
        for _ in 0..SPARE_COMMANDS_MAX + 1 {
            queue.try_send(waiting(7, 1)).unwrap_or_else(|_| panic!("the queue is full"));
        }
        while !take(&mut turns).is_empty() {}
        assert_eq!(turns.spare.len(), SPARE_LINES_MAX - 1);
    }

    #[tokio::test]
    async fn it_ends_when_all_is_taken_and_nobody_holds_the_queue() {
        let own = Command::Cleanup(Cleanup::Finish(ScopeId(Uuid::from_u128(1))));
        let (queue, mut turns) = turns([Waiting { command: own, ..waiting(1, 10) }]);
        drop(queue);
        assert!(turns.wait().await);
        assert_eq!(turns.take().len(), 1);
        assert!(!turns.wait().await);
    }
}
