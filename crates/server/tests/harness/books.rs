//! What must hold of the nodes once they have applied the same, whatever happened before: exact usage, equal states, and a
//! cache that is intact or empty.

use std::collections::BTreeMap;

use insidb_oracle::Store;
use serde_json::{Value, json};

use super::{
    Answer, Client,
    cluster::Cluster,
    encode,
    history::{generation, path},
    wait_for,
};

/// On every node that runs, what `/limits` says equals the sum over what a scan finds, and the scans are equal. All keys of
/// the tenant begin with `k`.
pub(crate) fn check_books(cluster: &Cluster, key: &str) {
    let running: Vec<usize> = (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)).collect();
    let recount = |number: usize, store: Store| {
        let mut client = cluster.client(number, key);
        let mut rows: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let after = rows.last_key_value().map(|(last, _)| format!("&after={}", encode(last))).unwrap_or_default();
            let page = client.get(&format!("{}/iterate?prefix=k&limit=1000{after}", path(store)));
            assert_eq!(page.status, 200, "{}", page.text());
            let names: Vec<String> = serde_json::from_value(page.json()).unwrap();
            if names.is_empty() {
                return rows;
            }
            for name in names {
                let found = client.get(&format!("{}?key={}", path(store), encode(&name)));
                assert_eq!(found.status, 200, "{name} is listed by node {number}: {}", found.text());
                rows.insert(name, found.json()["data"].as_str().unwrap().to_owned());
            }
        }
    };
    let rows = |store: Store| {
        let first = recount(running[0], store);
        for number in &running[1..] {
            assert_eq!(recount(*number, store), first, "nodes {} and {number} differ in {store:?}", running[0]);
        }
        first.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    let expected = json!({"bytes_on_disk": rows(Store::Values), "bytes_in_memory": rows(Store::Cache)});
    for number in &running {
        let usage = cluster.client(*number, key).get("/limits").json()["usage"].clone();
        assert_eq!(usage, expected, "node {number}: usage is not the sum over live entries");
    }
}

/// All nodes have the same state hash in both groups, at the same applied index.
pub(crate) fn check_hashes(cluster: &Cluster) {
    let running = (0..cluster.nodes.len()).find(|number| cluster.is_running(*number)).unwrap();
    let nodes: Vec<Value> = wait_for("all nodes to have applied the same", || {
        let nodes = cluster.status(running)["nodes"].as_array().unwrap().clone();
        let is_level = |group: &str| {
            let indexes = nodes.iter().map(|node| node[group]["applied_index"].as_u64());
            indexes.clone().all(|index| index.is_some() && index == nodes[0][group]["applied_index"].as_u64())
        };
        (is_level("values") && is_level("cache")).then_some(nodes)
    });
    for group in ["values", "cache"] {
        let hashes: Vec<&str> = nodes.iter().map(|node| node[group]["state_hash"].as_str().unwrap()).collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{group}: {hashes:?}");
    }
}

/// Asks again while the answer is 503: for what may be done twice.
fn until_served(mut ask: impl FnMut() -> Answer) -> Answer {
    wait_for("an answer other than 503", || Some(ask()).filter(|answer| answer.status != 503))
}

/// Cache keys that nothing but the loss of the cache may take away.
pub(crate) struct Landmarks {
    pub(crate) generation: u64,
}

impl Landmarks {
    const COUNT: usize = 40;

    /// Writes them, through all nodes that run.
    pub(crate) fn plant(cluster: &Cluster, key: &str) -> Self {
        let running: Vec<usize> = (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)).collect();
        let mut clients: Vec<Client> = running.iter().map(|number| cluster.client(*number, key)).collect();
        let mut generations = Vec::new();
        for n in 0..Self::COUNT {
            let body = json!({"key": format!("kept/{n}"), "value": "v"});
            generations.push(generation(&until_served(|| clients[n % running.len()].post("/cache", body.clone()))));
        }
        assert!(generations.iter().all(|it| *it == generations[0]), "{generations:?}");
        Self { generation: generations[0] }
    }

    /// Every node that runs has all of them, in the same generation.
    pub(crate) fn assert_intact(&self, cluster: &Cluster, key: &str) {
        self.each(cluster, key, |status, generation| {
            assert_eq!((status, generation), (200, self.generation), "the cache is not intact");
        });
    }

    /// No node that runs has any of them, in a later generation, which is the same one.
    pub(crate) fn assert_gone(&self, cluster: &Cluster, key: &str) {
        let mut generations = Vec::new();
        self.each(cluster, key, |status, generation| {
            assert_eq!(status, 404, "the cache is neither intact nor empty");
            generations.push(generation);
        });
        assert!(generations.iter().all(|it| *it == generations[0] && *it > self.generation), "{generations:?}");
    }

    fn each(&self, cluster: &Cluster, key: &str, mut look: impl FnMut(u16, u64)) {
        for number in (0..cluster.nodes.len()).filter(|number| cluster.is_running(*number)) {
            let mut client = cluster.client(number, key);
            for n in 0..Self::COUNT {
                let path = format!("/cache?key={}", encode(&format!("kept/{n}")));
                let answer = until_served(|| client.get(&path));
                look(answer.status, generation(&answer));
            }
        }
    }
}
