//! A busy machine is no reason for an election.

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

use harness::{cluster::Cluster, history::Traffic};

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
