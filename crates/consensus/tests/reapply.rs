//! What a start re-applies comes to what was applied before, whatever was looked up ahead.

#![allow(clippy::unwrap_used, missing_docs)]

mod durable;
mod logs;
mod members;

use consensus::log::{LocalLog, READ_BYTES_MAX};
use durable::Durable;
use members::{bump, delete, get, set, setnx, soon};
use openraft::storage::RaftLogStorage as _;

/// Shares no divisor with the kinds of writes, so that each key gets each of them.
const KEYS: u32 = 41;
/// Some tens to a piece of the log.
const VALUE_BYTES: usize = 20_000;

/// Everything that a write may be about: keys that the checkpoint holds, that it does not, that an earlier piece or the same one
/// has changed or removed.
async fn write(durable: &Durable, from: u32, to: u32) {
    for n in from..to {
        let key = format!("k{:02}", n * 7 % KEYS);
        let value = format!("{n:0VALUE_BYTES$}");
        let command = match n % 8 {
            0 => delete(&key),
            1 => setnx(&key, &value),
            2 | 3 => bump(&format!("n{}", n % 5)),
            _ => set(&key, &value),
        };
        durable.group(1).submit(command, soon()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_comes_to_the_state_that_was_there_before_the_crash() {
    let mut durable = Durable::start(1, 0).await;
    write(&durable, 0, 100).await;
    durable.group(1).checkpoint().await.unwrap();
    let durable_up_to = durable.group(1).local().applied().unwrap();
    let values = |durable: &Durable| {
        let group = durable.group(1).clone();
        async move {
            let mut values = Vec::new();
            for key in (0..KEYS).map(|n| format!("k{n:02}")).chain((0..5).map(|n| format!("n{n}"))) {
                values.push(get(&group, &key).await);
            }
            values
        }
    };
    let checkpointed_values = values(&durable).await;
    write(&durable, 100, 500).await;
    let before = durable.group(1).local().applied().unwrap();
    let values_before = values(&durable).await;
    let changes = |from: fn(&Option<Vec<u8>>) -> bool, to: fn(&Option<Vec<u8>>) -> bool| {
        checkpointed_values.iter().zip(&values_before).any(|(before, after)| from(before) && to(after))
    };
    assert!(changes(Option::is_some, Option::is_none) && changes(Option::is_none, Option::is_some));
    assert!(checkpointed_values.iter().zip(&values_before).any(|(before, after)| before.is_some() && before != after));

    // What the log does not know to be committed is left to openraft.
    let position = before.position.unwrap();
    durable.running[&1].log.note_committed(position).await.unwrap().unwrap();
    let tail = durable.running[&1].log.tail_start(3 * READ_BYTES_MAX as u64);
    assert!(tail > durable_up_to.position.unwrap().index + 1, "several pieces");
    durable.crash(1, None).await;

    durable.restart(1).await;
    let mut log = durable.running[&1].log.clone();
    assert!(log.read_committed().await.unwrap().is_some_and(|committed| committed.index >= position.index));
    let after = durable.group(1).local().applied().unwrap();
    assert!(after.position >= before.position, "{:?} behind {:?}", after.position, before.position);
    assert_eq!((after.state_hash, after.totals), (before.state_hash, before.totals));
    assert_eq!(values(&durable).await, values_before);
    durable.stop().await;
}
