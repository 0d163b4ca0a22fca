//! A busy machine is no reason for an election, and a missing majority none to keep the machine busy.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{cluster::Cluster, history::Traffic, wait_for};

/// How long the machine is kept busy.
const BUSY: Duration = Duration::from_secs(10);

/// The highest term of each group that any node is in.
fn terms(cluster: &Cluster) -> [u64; 2] {
    let status = cluster.status(0);
    ["values", "cache"].map(|group| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node[group]["term"].as_u64().unwrap_or(0)).max().unwrap()
    })
}

/// Every core computes, for as long as this lives.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let stop = Arc::<AtomicBool>::default();
        let cores = thread::available_parallelism().unwrap().get();
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            }
        };
        let threads = (0..cores).map(|_| thread::spawn(spin(stop.clone()))).collect();
        Self { stop, threads }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_busy_machine_causes_no_election() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let traffic = Traffic::start(&cluster, &key);
    traffic.await_more(200);
    let before = terms(&cluster);
    let load = Load::start();
    let end = Instant::now() + BUSY;
    // Looked at all along: a term that rises shows when.
    let mut seen = before;
    while Instant::now() < end {
        traffic.await_more(50);
        let now = terms(&cluster);
        if now != seen {
            println!("terms {seen:?} to {now:?}, {:?} before the end", end.saturating_duration_since(Instant::now()));
            seen = now;
        }
    }
    load.end();
    traffic.end_and_check(&mut cluster);
    assert_eq!(terms(&cluster), before, "terms of values and cache: there was an election");
}

#[test]
fn a_node_without_a_majority_waits_in_peace() {
    for leads in [true, false] {
        let mut cluster = Cluster::start(3);
        let (key, _) = cluster.create_key(0, "tenant");
        let leader = cluster.leader();
        let stays = if leads { leader } else { (leader + 1) % 3 };
        (0..3).filter(|number| *number != stays).for_each(|number| cluster.kill(number));
        let mut client = cluster.client(stays, &key);
        wait_for("the leader's lease to run out", || (client.get("/vs?key=k").status == 503).then_some(()));
        // Each of these waits for a leader as long as a request may.
        let (begun, before) = (Instant::now(), cluster.cpu_time(stays));
        for _ in 0..2 {
            assert_eq!(client.get("/vs?key=k").status, 503);
        }
        let (waited, worked) = (begun.elapsed(), cluster.cpu_time(stays) - before);
        // How things stand it tells all the same.
        assert_eq!(cluster.status(stays)["nodes"].as_array().unwrap().len(), 3);
        assert!(waited >= Duration::from_secs(1), "it was refused within {waited:?}");
        assert!(worked < waited / 4, "{worked:?} of work in {waited:?}; the node led: {leads}");
    }
}
