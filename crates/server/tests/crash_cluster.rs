//! Nodes of three are killed at random moments under traffic, one at a time and now and then two at once, and started
//! again; at the end everything that any client ever heard is checked (`harness/history.rs`).
//!
//! `INSIDB_CRASH_ROUNDS` sets the number of rounds (default 5), `INSIDB_CRASH_SEED` repeats a run's choices.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads, and settings of their own")]

mod harness;

use std::{thread, time::Duration};

use harness::{Random, books::Landmarks, cluster::Cluster, history::Traffic};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn random_kills_lose_and_double_nothing() {
    let rounds = setting("INSIDB_CRASH_ROUNDS", 5);
    let seed = setting("INSIDB_CRASH_SEED", u64::from(std::process::id()));
    println!("{rounds} rounds, INSIDB_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536");
    let (key, _) = cluster.create_key(0, "tenant");
    let traffic = Traffic::start(&cluster, &key);
    for round in 0..rounds {
        let landmarks = Landmarks::plant(&cluster, &key);
        traffic.await_more(50 + random.below(300));
        // A moment that no answer marks.
        thread::park_timeout(Duration::from_micros(random.below(20_000)));
        let first = usize::try_from(random.below(3)).unwrap();
        // The third round has two in any case, so that a short run has seen it.
        let loses_majority = round == 2 || random.below(5) == 0;
        let mut victims = vec![first];
        victims.extend(loses_majority.then_some((first + 1) % 3));
        println!("round {round}: killing {victims:?}");
        for victim in &victims {
            cluster.kill(*victim);
        }
        if !loses_majority && random.below(3) != 0 {
            traffic.await_writes(20 + random.below(100));
        }
        for victim in &victims {
            cluster.configure(*victim);
            cluster.spawn(*victim);
        }
        cluster.await_voters();
        if loses_majority {
            landmarks.assert_gone(&cluster, &key);
        } else {
            landmarks.assert_intact(&cluster, &key);
        }
    }
    traffic.end_and_check(&mut cluster);
}
