//! 64 clients on one key: one winner, exact sums, exact books, one revision for each accepted write. And clients of two
//! tenants, of whom one brings far more bytes.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod harness;

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Answer, Client, Server};
use serde_json::json;

const CLIENTS: usize = 64;

/// Runs `work` on 64 connections that begin together; what each returned, in no order.
fn together<T: Send>(server: &Server, key: &str, work: impl Fn(usize, &mut Client) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                let (barrier, work) = (&barrier, &work);
                let mut client = server.client(key);
                scope.spawn(move || {
                    barrier.wait();
                    work(id, &mut client)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn revision(answer: &Answer) -> u64 {
    answer.header("x-insidb-revision").unwrap().parse().unwrap()
}

fn value(client: &mut Client, store: &str, key: &str) -> String {
    client.get(&format!("/{store}?key={key}")).json()["data"].as_str().unwrap().to_owned()
}

#[test]
fn setnx_has_exactly_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("setnx");
    for store in ["vs", "cache"] {
        let answers = together(&server, &key, |id, client| {
            (id, client.post(&format!("/{store}/setnx"), json!({"key": "lock", "value": id.to_string()})))
        });
        let winners: Vec<_> = answers.iter().filter(|(_, answer)| answer.status == 200).collect();
        assert_eq!(winners.len(), 1, "{store}");
        assert!(answers.iter().all(|(_, answer)| [200, 409].contains(&answer.status)), "{store}");
        assert!(answers.iter().all(|(_, answer)| revision(answer) <= 1), "{store}: a refusal counted as a write");
        assert_eq!(value(&mut server.client(&key), store, "lock"), winners[0].0.to_string(), "{store}");
    }
}

#[test]
fn cas_loses_no_step() {
    const STEPS: u64 = 10;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("cas");
    for store in ["vs", "cache"] {
        server.client(&key).post(&format!("/{store}"), json!({"key": "n", "value": "0"}));
        together(&server, &key, |_, client| {
            let mut done = 0;
            while done < STEPS {
                let old = value(client, store, "n");
                let new = (old.parse::<u64>().unwrap() + 1).to_string();
                let answer =
                    client.post(&format!("/{store}/cas"), json!({"key": "n", "old_value": old, "new_value": new}));
                match answer.status {
                    200 => done += 1,
                    409 => {}
                    status => panic!("cas answered {status}: {}", answer.text()),
                }
            }
        });
        let steps = CLIENTS as u64 * STEPS;
        assert_eq!(value(&mut server.client(&key), store, "n"), steps.to_string(), "{store}");
    }
}

#[test]
fn bumps_add_up() {
    const BUMPS: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("bump");
    let sums = together(&server, &key, |_, client| {
        (0..BUMPS)
            .map(|_| {
                let answer = client.post("/vs/bump", json!({"key": "n", "value": "1"}));
                assert_eq!(answer.status, 200, "{}", answer.text());
                (answer.json()["data"].as_str().unwrap().parse::<u64>().unwrap(), revision(&answer))
            })
            .collect::<Vec<_>>()
    });
    let total = CLIENTS as u64 * BUMPS;
    let everyone: BTreeSet<_> = sums.into_iter().flatten().collect();
    let expected: BTreeSet<_> = (1..=total).map(|n| (n, n)).collect();
    assert_eq!(everyone, expected, "each sum and each revision is answered once");
    assert_eq!(value(&mut server.client(&key), "vs", "n"), total.to_string());
}

#[test]
fn usage_is_exact_under_concurrent_writes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let key = server.create_key("usage");
    for (store, field) in [("vs", "bytes_on_disk"), ("cache", "bytes_in_memory")] {
        let revisions = together(&server, &key, |id, client| {
            let mut accepted = Vec::new();
            for step in 0..30 {
                let name = format!("k{}", (id + step) % 7);
                let answer = match step % 5 {
                    0..=2 => client.post(&format!("/{store}"), json!({"key": name, "value": "v".repeat(id + step)})),
                    3 => client.post(&format!("/{store}/setnx"), json!({"key": name, "value": "nx"})),
                    _ => client.request("DELETE", &format!("/{store}"), &json!({"key": name}).to_string()),
                };
                assert!([200, 409].contains(&answer.status), "{}", answer.text());
                if step % 5 < 3 {
                    accepted.push(revision(&answer));
                }
            }
            accepted
        });
        let accepted: Vec<_> = revisions.into_iter().flatten().collect();
        assert_eq!(
            accepted.len(),
            accepted.iter().collect::<BTreeSet<_>>().len(),
            "{store}: a revision was given twice"
        );

        let mut client = server.client(&key);
        let keys = client.get(&format!("/{store}/iterate?prefix=k")).json();
        let keys: Vec<_> = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
        let bytes: usize = keys.iter().map(|key| key.len() + value(&mut client, store, key).len()).sum();
        assert_eq!(client.get("/limits").json()["usage"][field], json!(bytes), "{store}");
        for key in &keys {
            client.request("DELETE", &format!("/{store}"), &json!({"key": key}).to_string());
        }
        assert_eq!(client.get("/limits").json()["usage"][field], json!(0), "{store}: everything is given back");
    }
}

/// In the order of arrival a small write would wait as long as the large ones before it do.
#[test]
fn one_tenants_large_values_do_not_hold_up_anothers_small_ones() {
    const LARGE_CLIENTS: usize = 32;
    const LARGE_WRITES: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (large_key, small_key) = (server.create_key("large"), server.create_key("small"));
    let value = "x".repeat(1_000_000);
    let busy = AtomicUsize::new(LARGE_CLIENTS);
    let set = |client: &mut Client, name: &str, value: &str| {
        let begin = Instant::now();
        let answer = client.post("/vs", json!({"key": name, "value": value}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        begin.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (large, small) = std::thread::scope(|scope| {
        let large: Vec<_> = (0..LARGE_CLIENTS)
            .map(|id| {
                let (mut client, busy, value, set) = (server.client(&large_key), &busy, &value, &set);
                scope.spawn(move || {
                    let name = format!("large{id}");
                    let times: Vec<Duration> = (0..LARGE_WRITES).map(|_| set(&mut client, &name, value)).collect();
                    busy.fetch_sub(1, Ordering::AcqRel);
                    times
                })
            })
            .collect();
        let mut client = server.client(&small_key);
        let mut small = Vec::new();
        // While all of them write: the last ones have nobody before them.
        while busy.load(Ordering::Acquire) == LARGE_CLIENTS {
            small.push(set(&mut client, "small", "v"));
        }
        (large.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>(), small)
    });
    let (large, small) = (median(large), median(small));
    println!("a large write took {large:?}, a small one beside it {small:?}");
    assert!(small * 3 < large, "a large write took {large:?}, a small one beside it {small:?}");
}
