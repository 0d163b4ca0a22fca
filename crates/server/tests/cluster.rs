//! Three real nodes: nothing acknowledged is lost, and any of them answers.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Client, cluster::Cluster, wait_for};
use serde_json::json;

/// The most time without an acknowledged write after the leader's process was killed.
const SILENCE_MAX: Duration = Duration::from_secs(1);

#[test]
fn any_node_serves_and_what_one_acknowledges_all_have() {
    let cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(1, "tenant");
    for store in ["/vs", "/cache"] {
        for writer in 0..3 {
            let name = format!("k{writer}");
            let set = cluster.client(writer, &key).post(store, json!({"key": name, "value": "v"}));
            assert_eq!(set.status, 200, "{}", set.text());
            for reader in 0..3 {
                let got = cluster.client(reader, &key).get(&format!("{store}?key={name}"));
                assert_eq!((got.status, got.json()), (200, json!({"data": "v"})), "{store} {writer} {reader}");
            }
        }
    }
    for n in 1..=30 {
        let bumped = cluster.client(n % 3, &key).post("/vs/bump", json!({"key": "n", "value": "1"}));
        assert_eq!(bumped.json(), json!({"data": n.to_string()}));
    }
    for number in 0..3 {
        let usage = cluster.client(number, &key).get("/limits").json()["usage"].clone();
        assert_eq!(usage, json!({"bytes_on_disk": 12, "bytes_in_memory": 9}), "node {number}");
        let stale = cluster.client(number, &key).get("/vs?key=k0&consistency=stale");
        let age_ms: u64 = stale.header("x-insidb-staleness-ms").unwrap().parse().unwrap();
        assert!(stale.status == 200 && age_ms < 1_000, "{age_ms}");
    }
}

#[test]
fn a_dead_leader_costs_no_acknowledged_write_no_cache_and_less_than_a_second() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let survivor = cluster.others(leader)[0];
    let mut client = cluster.client(leader, &key);
    for n in 0..200 {
        assert_eq!(client.post("/vs", json!({"key": format!("k{n}"), "value": "v"})).status, 200);
        assert_eq!(client.post("/cache", json!({"key": format!("k{n}"), "value": "v"})).status, 200);
    }
    let generation = client.get("/cache?key=k0").header("x-insidb-cache-generation").unwrap().to_owned();
    cluster.kill(leader);
    let killed_at = Instant::now();
    cluster.set_until_done(survivor, &key, "/vs", "after", "v");
    let silence = killed_at.elapsed();
    assert!(silence <= SILENCE_MAX, "no write for {silence:?}");
    for number in cluster.others(leader) {
        let mut client = cluster.client(number, &key);
        for n in 0..200 {
            assert_eq!(client.get(&format!("/vs?key=k{n}")).status, 200, "k{n} through {number}");
            let cached = client.get(&format!("/cache?key=k{n}"));
            assert_eq!(cached.status, 200, "k{n} through {number}");
            assert_eq!(cached.header("x-insidb-cache-generation").unwrap(), generation);
        }
    }
    // From its first answer on, a node that comes back serves nothing acknowledged as absent.
    cluster.restart(leader);
    let mut client = cluster.client(leader, &key);
    for name in (0..200).map(|n| format!("k{n}")).chain(["after".to_owned()]) {
        assert_eq!(client.get(&format!("/vs?key={name}")).status, 200, "{name}");
    }
    assert_eq!(client.get("/cache?key=k7").header("x-insidb-cache-generation").unwrap(), generation);
    cluster.await_whole();
}

#[test]
fn a_lost_majority_keeps_the_values_and_empties_the_cache_visibly() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let mut client = cluster.client(0, &key);
    for store in ["/vs", "/cache"] {
        assert_eq!(client.post(store, json!({"key": "k", "value": "v"})).status, 200);
    }
    let generation: u64 = generation(&mut client);
    cluster.kill(1);
    cluster.kill(2);
    // Alone, a node serves nothing: neither writes nor reads, and says so honestly.
    wait_for("the remaining node to refuse", || {
        let mut client = cluster.connect(0, &key)?;
        let answer = client.try_request("GET", "/vs?key=k", "").ok()?;
        (answer.status == 503).then_some(())
    });
    let write = cluster.client(0, &key).request("POST", "/vs", &json!({"key": "k", "value": "w"}).to_string());
    assert_eq!(write.status, 503, "{}", write.text());
    cluster.restart(1);
    cluster.restart(2);
    cluster.await_whole();
    for number in 0..3 {
        let mut client = cluster.client(number, &key);
        assert_eq!(client.get("/vs?key=k").json(), json!({"data": "v"}));
        let cached = client.get("/cache?key=k");
        assert_eq!(cached.status, 404);
        let now: u64 = cached.header("x-insidb-cache-generation").unwrap().parse().unwrap();
        assert!(now > generation, "{now}");
        assert_eq!(client.get("/limits").json()["usage"], json!({"bytes_on_disk": 2, "bytes_in_memory": 0}));
    }
    for number in 0..3 {
        cluster.kill(number);
    }
    for number in 0..3 {
        cluster.configure(number);
        cluster.spawn(number);
    }
    cluster.await_whole();
    assert_eq!(cluster.client(2, &key).get("/vs?key=k").json(), json!({"data": "v"}));
}

fn generation(client: &mut Client) -> u64 {
    client.get("/cache?key=k").header("x-insidb-cache-generation").unwrap().parse().unwrap()
}

#[test]
fn a_leader_that_sleeps_serves_nothing_stale_when_it_wakes() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let other = cluster.others(leader)[0];
    assert_eq!(cluster.client(leader, &key).post("/vs", json!({"key": "k", "value": "old"})).status, 200);
    assert_eq!(cluster.client(leader, &key).post("/cache", json!({"key": "k", "value": "old"})).status, 200);
    let before = generation(&mut cluster.client(leader, &key));
    cluster.signal(leader, "STOP");
    let asleep_since = Instant::now();
    cluster.set_until_done(other, &key, "/vs", "k", "new");
    cluster.set_until_done(other, &key, "/cache", "k", "new");
    // The sleep itself is what is tested: as long as the issue's, past every lease.
    thread::park_timeout(Duration::from_secs(5).saturating_sub(asleep_since.elapsed()));
    let mut waiting = Client::connect(cluster.nodes[leader].public).key(&key);
    waiting
        .send(format!("GET /db/api/v1/vs?key=k HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n").as_bytes())
        .unwrap();
    cluster.signal(leader, "CONT");
    let answer = waiting.read_answer("GET").unwrap();
    assert!(answer.status == 503 || answer.text() == r#"{"data":"new"}"#, "{} {}", answer.status, answer.text());
    cluster.await_whole();
    for number in 0..3 {
        let mut client = cluster.client(number, &key);
        assert_eq!(client.get("/vs?key=k").json(), json!({"data": "new"}));
        assert_eq!(client.get("/cache?key=k").json(), json!({"data": "new"}));
        assert_eq!(generation(&mut client), before, "a pause costs no cache");
    }
}

#[test]
fn a_node_that_lost_its_disk_comes_back_as_another_in_the_old_ones_place() {
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536");
    let (key, _) = cluster.create_key(0, "tenant");
    let mut client = cluster.client(1, &key);
    for n in 0..300 {
        let value = "x".repeat(1_000);
        assert_eq!(client.post("/vs", json!({"key": format!("k{n}"), "value": value})).status, 200);
    }
    for n in 0..50 {
        assert_eq!(client.request("DELETE", &format!("/vs?key=k{n}"), "").status, 200);
    }
    // The founder, which must not found a second cluster either.
    let old = cluster.id(0);
    cluster.kill(0);
    cluster.wipe(0);
    cluster.restart(0);
    cluster.await_whole();
    assert_ne!(cluster.id(0), old);
    let status = cluster.status(1);
    let ids: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect();
    assert!(ids.len() == 3 && !ids.contains(&old.as_str()), "{status:#}");
    let mut client = cluster.client(0, &key);
    for n in 0..300 {
        let expected = if n < 50 { 404 } else { 200 };
        assert_eq!(client.get(&format!("/vs?key=k{n}")).status, expected, "k{n}");
    }
}

#[test]
fn a_node_with_the_smallest_segments_catches_up_from_the_log() {
    let mut cluster = Cluster::start_with(3, "log_segment_bytes = 1048576\nmax_value_size = 65536");
    let (key, _) = cluster.create_key(0, "tenant");
    cluster.kill(2);
    let value = "x".repeat(60_000);
    let mut client = cluster.client(0, &key);
    for n in 0..200 {
        assert_eq!(client.post("/vs", json!({"key": format!("k{n}"), "value": value})).status, 200);
    }
    // Many commands in one entry, as many bytes as one may have: it must fit a segment as well.
    let writers: Vec<_> = (0..48)
        .map(|writer| {
            let (mut client, value) = (cluster.client(0, &key), value.clone());
            std::thread::spawn(move || {
                for n in 0..4 {
                    let set = client.post("/vs", json!({"key": format!("w{writer}.{n}"), "value": value}));
                    assert_eq!(set.status, 200, "{}", set.text());
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    cluster.restart(2);
    cluster.await_whole();
    assert!(!cluster.log_text(2).contains("installing a snapshot"), "it should have come from the log");
    let mut client = cluster.client(2, &key);
    for last in ["k199", "w47.3"] {
        assert_eq!(client.get(&format!("/vs?key={last}")).json(), json!({"data": value}), "{last}");
    }
}

#[test]
fn a_node_that_lost_its_log_and_store_alone_does_not_come_back_as_itself() {
    let mut cluster = Cluster::start(3);
    let old = cluster.id(2);
    cluster.kill(2);
    for part in ["log", "store"] {
        std::fs::remove_dir_all(cluster.nodes[2].dir.join(part)).unwrap();
    }
    // However often somebody, or a supervisor, tries: it must not answer the others in its old name meanwhile, which a
    // leader would not survive.
    for _ in 0..6 {
        let said = cluster.refusal(2);
        assert!(said.contains("its log is empty: it was lost"), "{said}");
    }
    cluster.wipe(2);
    cluster.restart(2);
    cluster.await_whole();
    assert_ne!(cluster.id(2), old);
}

#[test]
fn a_stranger_is_refused_and_both_sides_say_why() {
    let mut cluster = Cluster::start(1);
    let logs = |cluster: &Cluster, number: usize, sentence: &str, reason: &str| {
        wait_for(&format!("node {number} to log {sentence:?} and {reason:?}"), || {
            cluster.log_text(number).lines().any(|line| line.contains(sentence) && line.contains(reason)).then_some(())
        });
    };
    // Another secret.
    let stranger = cluster.reserve();
    cluster.configure(stranger);
    cluster.spawn_with_secret(stranger, "some-other-cluster's-secret");
    logs(&cluster, 0, "a peer is refused", "token");
    logs(&cluster, stranger, "the peer refuses this node's messages", "token");
    assert!(!cluster.is_ready(stranger));
    cluster.kill(stranger);
    // The same secret, but the data directory of another cluster.
    let mut other = Cluster::start(2);
    other.kill(1);
    assert!(!cluster.nodes[stranger].dir.exists(), "a node that was never let in has nothing to keep");
    std::fs::rename(&other.nodes[1].dir, &cluster.nodes[stranger].dir).unwrap();
    cluster.spawn(stranger);
    logs(&cluster, 0, "a peer is refused", "is of cluster");
    logs(&cluster, stranger, "the peer refuses this node's messages", "is of cluster");
    assert!(!cluster.is_ready(stranger));
    assert_eq!(cluster.status(0)["nodes"].as_array().unwrap().len(), 1, "none of them was taken in");
}

#[test]
fn every_node_tells_how_far_all_have_come() {
    let cluster = Cluster::start(3);
    for number in 0..3 {
        wait_for(&format!("node {number} to know lag and contact of all"), || {
            let status = cluster.status(number);
            let followers = |group: &str| {
                let nodes = status["nodes"].as_array().unwrap().iter();
                let of_group = nodes.map(|node| node[group].clone()).filter(|member| member["role"] == "voter");
                of_group.filter(|member| member["lag"] == 0 && member["last_contact_ms"].is_u64()).count()
            };
            (followers("values") == 2 && followers("cache") == 2).then_some(())
        });
    }
}

#[test]
fn a_change_of_keys_is_in_force_everywhere_when_it_is_acknowledged() {
    let cluster = Cluster::start(3);
    for round in 0..20 {
        let (key, uuid) = cluster.create_key(round % 3, "short-lived");
        let mut clients: Vec<Client> = (0..3).map(|number| cluster.client(number, &key)).collect();
        for client in &mut clients {
            assert_eq!(client.get("/ping").status, 200, "a new key is known everywhere at once");
        }
        let gone =
            cluster.admin((round + 1) % 3, "POST", "/admin/api/delete", &json!({ "key_uuid": uuid }).to_string());
        assert_eq!(gone.status, 200, "{}", gone.text());
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.get("/vs?key=k&consistency=stale").status, 401, "round {round}, node {number}");
        }
    }
}

#[test]
fn a_node_is_removed_for_good_and_not_when_that_would_cost_the_majority() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [gone, stays] = cluster.others(leader)[..] else { panic!("three nodes") };
    let (gone_id, stays_id) = (cluster.id(gone), cluster.id(stays));
    cluster.kill(gone);
    let remove = |cluster: &Cluster, node: &str| {
        cluster.admin(leader, "POST", "/admin/cluster/remove", &json!({ "node": node }).to_string())
    };
    wait_for("the dead node to count as dead", || {
        let status = cluster.status(leader);
        let dead = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == gone_id.as_str()).unwrap();
        (dead["values"]["last_contact_ms"].as_u64()? > 1_500).then_some(())
    });
    let refused = remove(&cluster, &stays_id);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("no majority"), "{}", refused.text());
    let done = remove(&cluster, &gone_id);
    assert_eq!(done.status, 200, "{}", done.text());
    cluster.await_whole();
    let refused = remove(&cluster, &gone_id);
    assert_eq!(refused.status, 409, "{}", refused.text());
    // Started again with its old directory, it is not taken in, and says why.
    cluster.spawn(gone);
    assert_eq!(cluster.await_end(gone), Some(1));
    let log = cluster.log_text(gone);
    assert!(log.contains("this node was removed from the cluster"), "{log}");
    let (key, _) = cluster.create_key(leader, "tenant");
    assert_eq!(cluster.client(stays, &key).post("/vs", json!({"key": "k", "value": "v"})).status, 200);
    assert_eq!(cluster.status(leader)["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_node_that_was_removed_may_end_at_once_and_the_cache_stays() {
    let mut cluster = Cluster::start(2);
    let (key, _) = cluster.create_key(0, "tenant");
    let stays = cluster.leader();
    let gone = 1 - stays;
    let mut client = cluster.client(stays, &key);
    assert_eq!(client.post("/cache", json!({"key": "k", "value": "v"})).status, 200);
    let body = json!({ "node": cluster.id(gone) }).to_string();
    let removed = cluster.admin(stays, "POST", "/admin/cluster/remove", &body);
    assert_eq!(removed.status, 200, "{}", removed.text());
    cluster.kill(gone);
    let read = wait_for("the cache to answer", || Some(client.get("/cache?key=k")).filter(|read| read.status != 503));
    assert_eq!((read.status, read.json()["data"].as_str()), (200, Some("v")), "{}", read.text());
}

#[test]
fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(3);
    for _ in 0..4 {
        let leader = cluster.leader();
        let to = cluster.others(leader)[1];
        let body = json!({ "node": cluster.id(to) }).to_string();
        let done = cluster.admin(cluster.others(leader)[0], "POST", "/admin/cluster/transfer", &body);
        assert_eq!(done.status, 200, "{}", done.text());
        wait_for("the other node to lead", || (cluster.leader() == to).then_some(()));
    }
    // Metrics and logs say so too.
    let leader = cluster.leader();
    for number in 0..3 {
        let leads = format!("insidb_raft_leads{{store=\"vs\"}} {}", u8::from(number == leader));
        let mut monitor = Client::connect(cluster.nodes[number].private);
        wait_for("the metrics to tell who leads", || {
            monitor.try_request("GET", "/metrics", "").unwrap().text().contains(&leads).then_some(())
        });
        let line = if number == leader { "this node leads" } else { "another node leads" };
        wait_for("the log to tell who leads", || cluster.log_text(number).contains(line).then_some(()));
    }
}

#[test]
fn a_follower_redirects_writes_when_it_is_told_to() {
    let cluster = Cluster::start_with(3, "on_follower_write = \"redirect\"");
    let (key, _) = cluster.create_key(0, "tenant");
    let leader = cluster.leader();
    let follower = cluster.others(leader)[0];
    let body = json!({"key": "k", "value": "v"});
    let answer = cluster.client(follower, &key).post("/vs?key=k", body.clone());
    assert_eq!(answer.status, 307, "{}", answer.text());
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(location, format!("http://{}/db/api/v1/vs?key=k", cluster.nodes[leader].public));
    assert_eq!(cluster.client(leader, &key).post("/vs", body).status, 200);
    assert_eq!(cluster.client(follower, &key).get("/vs?key=k").status, 200, "reads are served everywhere");
}

/// Clients that write and read through the SDK while something happens to the nodes.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(cluster: &Cluster, key: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let done = Arc::<AtomicU64>::default();
        let urls: Vec<String> = cluster.nodes.iter().map(|node| format!("http://{}", node.public)).collect();
        let workers = (0..4).map(|worker| {
            let (stop, done, key) = (stop.clone(), done.clone(), key.to_owned());
            let urls: Vec<String> = (0..urls.len()).map(|n| urls[(n + worker) % urls.len()].clone()).collect();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let client = insidb_client::Client::builder().urls(urls).key(key).build().unwrap();
                    let mut failed = Vec::new();
                    // What this client knows of the counter, which only grows, and of its key in the cache.
                    let (mut least, mut cached) = (0, false);
                    while !stop.load(Ordering::SeqCst) {
                        let n = done.fetch_add(1, Ordering::SeqCst);
                        match client.values().bump("n", 1).await {
                            Ok(sum) => least = sum.value,
                            Err(error) => failed.push(format!("bump {n}: {error}")),
                        }
                        let own = format!("k{worker}");
                        match client.cache().set(&own, "v").await {
                            Ok(_) => cached = true,
                            Err(error) => failed.push(format!("cache set {n}: {error}")),
                        }
                        match client.values().get("n").await {
                            Ok(read) if read.value.as_ref().map_or(0, |sum| sum.parse().unwrap()) >= least => {}
                            Ok(read) => failed.push(format!("wrong {n}: {:?} after {least}", read.value)),
                            Err(error) => failed.push(format!("get {n}: {error}")),
                        }
                        match client.cache().get(&own).await {
                            Ok(read) if read.value.is_some() || !cached => {}
                            Ok(_) => failed.push(format!("wrong {n}: the cache has lost {own}")),
                            Err(error) => failed.push(format!("get {n}: {error}")),
                        }
                    }
                    failed
                })
            })
        });
        let workers = workers.collect();
        Self { stop, done, workers }
    }

    /// Waits for so many more operations to have begun.
    fn await_more(&self, operations: u64) {
        let target = self.done.load(Ordering::SeqCst) + operations;
        wait_for("the load to go on", || (self.done.load(Ordering::SeqCst) >= target).then_some(()));
    }

    /// How many bumps were made, and what failed.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failed = self.workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        (self.done.load(Ordering::SeqCst), failed)
    }
}

#[test]
fn a_rolling_restart_fails_no_call_of_the_sdk_and_keeps_the_cache() {
    let mut cluster = Cluster::start(3);
    let (key, _) = cluster.create_key(0, "tenant");
    assert_eq!(cluster.client(0, &key).post("/cache", json!({"key": "k", "value": "v"})).status, 200);
    let before = generation(&mut cluster.client(0, &key));
    let load = Load::start(&cluster, &key);
    for number in 0..3 {
        load.await_more(200);
        assert_eq!(cluster.stop(number), Some(0));
        cluster.restart(number);
        cluster.await_voters();
    }
    load.await_more(200);
    let (bumps, failed) = load.end();
    assert!(failed.is_empty(), "{} of {bumps}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    let sum: u64 = data(&mut cluster.client(1, &key), "/vs?key=n").parse().unwrap();
    assert_eq!(sum, bumps, "each bump is applied once");
    assert_eq!(generation(&mut cluster.client(2, &key)), before);
    assert_eq!(data(&mut cluster.client(0, &key), "/cache?key=k"), "v");
}

fn data(client: &mut Client, path: &str) -> String {
    let answer = client.get(path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_str().unwrap().to_owned()
}

/// Rounds of kills under load; more by `INSIDB_TEST_KILL_ROUNDS`.
#[test]
fn kills_under_load_lose_and_double_nothing() {
    let rounds = std::env::var("INSIDB_TEST_KILL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let mut cluster = Cluster::start_with(3, "checkpoint_bytes = 65536");
    let (key, _) = cluster.create_key(0, "tenant");
    let load = Load::start(&cluster, &key);
    for round in 0..rounds {
        load.await_more(100);
        // The leader every other time, else one of the followers.
        let leader = cluster.leader();
        let victim = if round % 2 == 0 { leader } else { cluster.others(leader)[round / 2 % 2] };
        cluster.kill(victim);
        load.await_more(100);
        cluster.restart(victim);
        cluster.await_voters();
    }
    let (bumps, failed) = load.end();
    cluster.await_whole();
    // Every write that failed must have said that its outcome is unknown. A read may just fail, and is never wrong.
    for failure in failed.iter().filter(|failure| !failure.starts_with("get")) {
        assert!(failure.contains("outcome is unknown"), "{failure}");
    }
    let unknown = failed.iter().filter(|failure| failure.starts_with("bump")).count() as u64;
    for number in 0..3 {
        let sum: u64 = data(&mut cluster.client(number, &key), "/vs?key=n").parse().unwrap();
        assert!((bumps - unknown..=bumps).contains(&sum), "{sum} of {bumps} bumps, {unknown} of them unknown");
        let usage = cluster.client(number, &key).get("/limits").json()["usage"]["bytes_on_disk"].clone();
        assert_eq!(usage, json!(1 + sum.to_string().len()), "node {number}");
    }
}
