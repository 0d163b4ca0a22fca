//! A model of the whole: nodes with their buckets, leaders that follow one another, messages that are late or lost,
//! processes that die and come back, and clients that ask now here, now there. All from a seed.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{super::*, *};
use crate::node::timing::{RENEWAL_WAIT_MAX, SHARES_HOLD};

const SCOPE: ScopeId = ScopeId::ROOT;
const STEP_MS: u64 = 5;
const MS_NS: u64 = 1_000_000;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Every report proves what a node holds, whenever it was made.
    Proof,
    /// What is told to be lowered counts as lowered.
    Confirmation,
    /// A new leader raises shares before it knows the old ones.
    Patience,
    /// A node takes answers to questions that it has given up.
    OneQuestion,
    /// A node that hears nothing goes on.
    Lease,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}

struct Process {
    book: Arc<Book>,
    bucket: Arc<Bucket>,
    called: UnboundedReceiver<ScopeId>,
    holdings: Holdings,
    /// The question that it waits for: its number, and when it was asked.
    open: Option<(u64, u64)>,
    asks_at_ms: u64,
}

impl Process {
    fn new(node: usize, now_ms: u64) -> Self {
        let (book, called) = Book::shared();
        let book = Arc::new(book);
        let holdings = Holdings::new(id(node), book.clone());
        Self { bucket: book.bucket(SCOPE), book, called, holdings, open: None, asks_at_ms: now_ms }
    }
}

struct Node {
    process: Option<Process>,
    /// Requests per second, and when the next one comes.
    demand: f64,
    next_ns: u64,
}

enum Message {
    Report { term: u64, question: u64, report: ShareReport },
    Answer { node: usize, question: u64, shares: Shares },
}

/// A report that the leader holds back.
struct Held {
    node: usize,
    question: u64,
    visit: u64,
    until_ms: u64,
}

struct World {
    random: Random,
    without: Without,
    has_faults: bool,
    limit: u64,
    now_ms: u64,
    nodes: Vec<Node>,
    members: BTreeSet<NodeId>,
    term: u64,
    ledger: Ledger,
    held: Vec<Held>,
    questions: u64,
    /// With when they arrive.
    messages: Vec<(u64, Message)>,
    granted_ns: Vec<u64>,
    /// Whether the nodes ever had more than there is.
    is_overcommitted: bool,
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64)
}

fn duration(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn new(seed: u64, nodes: usize, limit: u64) -> Self {
        let mut ledger = Ledger::default();
        ledger.enter(1, Duration::ZERO);
        let node = |number| Node { process: Some(Process::new(number, 0)), demand: 0.0, next_ns: 0 };
        Self {
            random: Random(seed | 1),
            without: Without::Nothing,
            has_faults: false,
            limit,
            now_ms: 0,
            nodes: (0..nodes).map(node).collect(),
            members: (0..nodes).map(id).collect(),
            term: 1,
            ledger,
            held: Vec::new(),
            questions: 0,
            messages: Vec::new(),
            granted_ns: Vec::new(),
            is_overcommitted: false,
        }
    }

    fn now(&self) -> Duration {
        duration(self.now_ms)
    }

    /// Requests per second to each node, from now on.
    fn demand(&mut self, demands: &[f64]) {
        for (node, demand) in self.nodes.iter_mut().zip(demands) {
            node.demand = *demand;
            node.next_ns = self.now_ms * MS_NS + 1;
        }
    }

    fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        if self.has_faults {
            self.fault();
        }
        self.serve();
        for node in 0..self.nodes.len() {
            self.exchange(node);
        }
        self.deliver();
        self.lead();
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let holders = processes.filter(|process| process.book.is_valid(self.now_ms * MS_NS));
        let held: Share = holders.map(|process| process.holdings.share(&SCOPE)).sum();
        self.is_overcommitted |= held > Share(Share::WHOLE.0 / 100 * 106 + 100);
    }

    /// Now and then something goes wrong, or the clients go elsewhere.
    fn fault(&mut self) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        match self.random.below(2_000) {
            0 => {
                self.term += 1;
                self.ledger.enter(self.term, duration(self.now_ms));
                self.held.clear();
            }
            1 => self.nodes[node].process = None,
            2..6 => {
                let now_ms = self.now_ms;
                self.nodes[node].process.get_or_insert_with(|| Process::new(node, now_ms));
            }
            6..16 => {
                let factor = self.random.below(9) as f64 / 2.0;
                self.nodes[node].demand = factor * self.limit as f64;
                self.nodes[node].next_ns = self.now_ms * MS_NS;
            }
            _ => {}
        }
    }

    fn serve(&mut self) {
        let Self { nodes, now_ms, limit, granted_ns, .. } = self;
        for node in nodes.iter_mut().filter(|node| node.demand > 0.0) {
            while node.next_ns <= *now_ms * MS_NS {
                let is_granted = |process: &Process| process.bucket.take(node.next_ns, *limit).is_ok();
                if node.process.as_ref().is_some_and(is_granted) {
                    granted_ns.push(node.next_ns);
                }
                node.next_ns += (1e9 / node.demand) as u64;
            }
        }
    }

    fn exchange(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.nodes[node].process else { return };
        let mut is_urgent = false;
        while let Ok(scope) = process.called.try_recv() {
            is_urgent |= process.holdings.follow(scope);
        }
        let wait_max_ms = RENEWAL_WAIT_MAX.as_millis() as u64;
        let is_given_up = process.open.is_some_and(|(_, at_ms)| is_urgent || now_ms >= at_ms + wait_max_ms);
        if (process.open.is_some() && !is_given_up) || now_ms < process.asks_at_ms {
            return;
        }
        self.questions += 1;
        process.open = Some((self.questions, now_ms));
        let report = process.holdings.report(duration(now_ms));
        let message = Message::Report { term: self.term, question: self.questions, report };
        self.send(message);
    }

    fn send(&mut self, message: Message) {
        let delay_ms = match (self.has_faults, self.random.below(100)) {
            (true, 0..4) => return,
            (true, 4..12) => self.random.below(5_000),
            _ => self.random.below(3) * STEP_MS,
        };
        self.messages.push((self.now_ms + delay_ms, message));
    }

    fn deliver(&mut self) {
        let (due, later) = std::mem::take(&mut self.messages).into_iter().partition(|(at, _)| *at <= self.now_ms);
        self.messages = later;
        let due: Vec<(u64, Message)> = due;
        for (_, message) in due {
            match message {
                Message::Report { term, question, report } if term == self.term => self.hear(question, report),
                Message::Report { .. } => {} // its leader leads no more
                Message::Answer { node, question, shares } => self.take(node, question, shares),
            }
        }
    }

    fn hear(&mut self, question: u64, mut report: ShareReport) {
        let node = report.node;
        if self.without == Without::Proof {
            let number = self.ledger.nodes.get(&node).map_or(0, |standing| standing.answer);
            report.taken = Round { term: self.term, number };
        }
        let visit = self.ledger.hear(&report, duration(self.now_ms)).visit;
        let until_ms = self.now_ms + SHARES_HOLD.as_millis() as u64;
        self.held.push(Held { node: node.0 as usize, question, visit, until_ms });
    }

    fn take(&mut self, node: usize, question: u64, shares: Shares) {
        let now = self.now();
        let Some(process) = &mut self.nodes[node].process else { return };
        let asked_at = match process.open {
            Some((open, at_ms)) if open == question => at_ms,
            Some((_, at_ms)) if self.without == Without::OneQuestion => at_ms,
            _ => return,
        };
        process.open = None;
        process.asks_at_ms = self.now_ms + STEP_MS;
        process.holdings.take(shares, duration(asked_at), now);
        if self.without == Without::Lease {
            process.book.extend(u64::MAX);
        }
    }

    fn lead(&mut self) {
        let nobody = BTreeSet::new();
        let members = if self.without == Without::Patience { &nobody } else { &self.members };
        let now = duration(self.now_ms);
        let mut answers = Vec::new();
        self.held.retain(|held| {
            let node = id(held.node);
            if !self.ledger.is_last(node, held.visit) {
                return false;
            }
            if held.until_ms > self.now_ms && !self.ledger.has_news(node, members, now) {
                return true;
            }
            if let Some(shares) = self.ledger.answer(node, members, now) {
                answers.push(Message::Answer { node: held.node, question: held.question, shares });
            }
            false
        });
        if self.without == Without::Confirmation {
            for message in &answers {
                let Message::Answer { node, shares, .. } = message else { continue };
                for told in &shares.scopes {
                    let part = self.ledger.records.get_mut(&told.scope).and_then(|it| it.parts.get_mut(&id(*node)));
                    let part = part.expect("a scope that was told of has a record");
                    (part.own_most, part.may_be_default) = (told.share, told.share.is_none());
                }
            }
        }
        answers.into_iter().for_each(|answer| self.send(answer));
    }

    /// The most requests granted within a time, over all such times.
    fn most_granted(&self, within_ns: u64) -> usize {
        let mut granted_ns = self.granted_ns.clone();
        granted_ns.sort_unstable();
        let mut first = 0;
        let counts = granted_ns.iter().enumerate().map(|(last, at_ns)| {
            while at_ns - granted_ns[first] > within_ns {
                first += 1;
            }
            last - first + 1
        });
        counts.max().unwrap_or(0)
    }

    /// Whether more was granted than `rate.rs` proves, or could have been.
    fn is_broken(&self) -> bool {
        let mut times_ms = [100, 1_000, 3_000, 10_000].iter();
        self.is_overcommitted
            || times_ms.any(|ms| {
                let proved = 1.06 * self.limit as f64 * (1.0 + *ms as f64 / 1e3) + self.nodes.len() as f64;
                self.most_granted(*ms * MS_NS) as f64 > proved
            })
    }

    fn granted_since(&self, ms: u64) -> u64 {
        self.granted_ns.iter().filter(|at_ns| **at_ns > ms * MS_NS).count() as u64
    }
}

fn world_with_faults(seed: u64, nodes: usize, limit: u64, without: Without) -> World {
    let mut world = World::new(seed, nodes, limit);
    world.has_faults = true;
    world.without = without;
    let demand = 2.0 * limit as f64;
    world.demand(&vec![demand; nodes]);
    world.run_for(25_000);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// `docs/api.md` section 5: all nodes together keep to the limit, whatever goes wrong.
    #[test]
    fn never_more_than_the_limit(seed: u64, nodes in 1_usize..6, limit in prop_oneof![1_u64..5, 10_u64..80]) {
        let world = world_with_faults(seed, nodes, limit, Without::Nothing);
        prop_assert!(!world.is_broken());
        let allowed = limit + 12 * limit + nodes as u64;
        prop_assert!(world.most_granted(10_000 * MS_NS) as u64 <= allowed);
    }

    /// `docs/api.md` section 5: after 2 s of steady demand a client gets 0.9 of its limit through one node alone, and so
    /// again when it goes to another node. The burst of 2 s is over by then.
    #[test]
    fn one_node_alone_serves_the_limit(
        seed: u64, nodes in 1_usize..8, limit in prop_oneof![1_u64..5, 1_u64..80], permille in 1_000_u64..4_000,
    ) {
        let mut world = World::new(seed, nodes, limit);
        world.run_for(2_000);
        for node in 0..nodes.min(3) {
            let mut demands = vec![0.0; nodes];
            demands[node] = limit as f64 * permille as f64 / 1e3;
            world.demand(&demands);
            world.run_for(2_000);
            let (seconds, since_ms) = (20, world.now_ms);
            world.run_for(seconds * 1_000);
            let granted = world.granted_since(since_ms);
            prop_assert!(granted * 10 >= limit * seconds * 9, "{granted} of {}", limit * seconds);
        }
        prop_assert!(!world.is_broken());
    }

    /// The same through several nodes, each with a part of the demand.
    #[test]
    fn several_nodes_serve_the_limit(
        seed: u64, limit in 10_u64..80, parts in prop::collection::vec(1_u64..100, 2..6), permille in 1_000_u64..4_000,
    ) {
        let mut world = World::new(seed, parts.len(), limit);
        world.run_for(2_000);
        let (demand, sum) = (limit as f64 * permille as f64 / 1e3, parts.iter().sum::<u64>() as f64);
        let demands: Vec<f64> = parts.iter().map(|part| demand * *part as f64 / sum).collect();
        world.demand(&demands);
        world.run_for(2_000);
        let (seconds, since_ms) = (10, world.now_ms);
        world.run_for(seconds * 1_000);
        let granted = world.granted_since(since_ms);
        prop_assert!(granted * 10 >= limit * seconds * 9, "{granted} of {}", limit * seconds);
        prop_assert!(!world.is_broken());
    }
}

#[test]
fn each_rule_is_needed() {
    for without in [Without::Proof, Without::Confirmation, Without::Patience, Without::OneQuestion, Without::Lease] {
        let breaks = |seed: &u64| world_with_faults(*seed * 7_919, 3, 40, without).is_broken();
        assert!((1..400).any(|seed| breaks(&seed)), "{without:?} does not break");
    }
}

#[test]
fn a_burst_through_one_node_is_the_whole_limit() {
    let mut world = World::new(5, 3, 50);
    world.run_for(2_000);
    let since_ms = world.now_ms;
    world.demand(&[1_000.0, 0.0, 0.0]);
    // An even part at once, the rest as soon as the leader has taken it from the others.
    world.run_for(10);
    assert!(world.granted_since(since_ms) >= 10, "{}", world.granted_since(since_ms));
    world.run_for(190);
    let granted = world.granted_since(since_ms);
    assert!((45..=60).contains(&granted), "{granted}");
}

#[test]
fn what_a_dead_node_had_comes_back_with_its_lease() {
    let mut world = World::new(3, 3, 40);
    world.run_for(2_000);
    world.demand(&[80.0, 80.0, 0.0]);
    world.run_for(3_000);
    world.nodes[1].process = None;
    world.run_for(2_000);
    let since_ms = world.now_ms;
    world.run_for(500);
    assert!(world.granted_since(since_ms) < 15, "its lease runs still");
    world.run_for(1_500);
    let since_ms = world.now_ms;
    world.run_for(5_000);
    assert!(world.granted_since(since_ms) >= 5 * 36);
}

#[test]
fn the_default_comes_back_when_nobody_asks() {
    let mut world = World::new(3, 3, 40);
    world.run_for(2_000);
    world.demand(&[80.0, 0.0, 0.0]);
    world.run_for(3_000);
    assert!(world.ledger.records.contains_key(&SCOPE));
    world.demand(&[0.0, 0.0, 0.0]);
    world.run_for(FORGET.as_millis() as u64 + 3_000);
    assert!(world.ledger.records.is_empty(), "{:?}", world.ledger.records);
    assert!(world.nodes.iter().all(|node| node.process.as_ref().is_some_and(|it| it.holdings.len() == 0)));
}

#[test]
fn a_node_that_joins_gets_its_part() {
    let mut world = World::new(3, 3, 40);
    world.nodes[2].process = None;
    world.members.remove(&id(2));
    world.run_for(1_000);
    world.demand(&[80.0, 0.0, 0.0]);
    world.run_for(3_000);
    world.members.insert(id(2));
    world.nodes[2].process = Some(Process::new(2, world.now_ms));
    world.run_for(1_000);
    world.demand(&[0.0, 0.0, 80.0]);
    world.run_for(2_000);
    let since_ms = world.now_ms;
    world.run_for(5_000);
    assert!(world.granted_since(since_ms) >= 5 * 36, "{}", world.granted_since(since_ms));
    assert!(world.ledger.nodes.values().all(|standing| standing.held == Share::even(3)));
}

/// What `rate.rs` says of 10,000 scopes that all want more.
#[test]
fn ten_thousand_scopes_are_divided_by_demand() {
    const SCOPES: u64 = 10_000;
    let mut ledger = Ledger::default();
    ledger.enter(1, Duration::ZERO);
    let members = BTreeSet::from([id(0), id(1), id(2)]);
    let mut processes: Vec<Process> = (0..3).map(|node| Process::new(node, 0)).collect();
    let scopes: Vec<ScopeId> = (0..SCOPES).map(|n| ScopeId(uuid::Uuid::from_u64_pair(n, !n))).collect();
    let mut longest = 0;
    for ms in (0..3_000).step_by(300) {
        for scope in &scopes {
            // Each client asks one node alone, four times its limit.
            let node = scope.0.as_u64_pair().0 as usize % 3;
            let bucket = processes[node].book.bucket(*scope);
            (0..30).for_each(|_| {
                let _ = bucket.take(ms * MS_NS, 25);
            });
        }
        for (node, process) in processes.iter_mut().enumerate() {
            while let Ok(scope) = process.called.try_recv() {
                process.holdings.follow(scope);
            }
            let report = process.holdings.report(duration(ms));
            longest = longest.max(postcard::to_stdvec(&report).map_or(usize::MAX, |bytes| bytes.len()));
            ledger.hear(&report, duration(ms));
            let answer = ledger.answer(id(node), &members, duration(ms)).expect("it is a member");
            process.holdings.take(answer, duration(ms), duration(ms));
        }
    }
    assert!(longest <= 300_000, "{longest} bytes");
    for scope in &scopes {
        let node = scope.0.as_u64_pair().0 as usize % 3;
        assert_eq!(processes[node].holdings.share(scope), Share::WHOLE);
    }
}
