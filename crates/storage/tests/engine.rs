//! What every engine promises, over every engine.

#![allow(clippy::unwrap_used)]

mod suite;

use std::{path::Path, sync::Arc};

use storage::{DiskEngine, MemoryEngine, disk::Options, fs::faulty::FaultyDisk};

fn disk_engine() -> DiskEngine {
    DiskEngine::open(Arc::new(FaultyDisk::new()), Path::new("/store"), Options::default()).unwrap()
}

macro_rules! both {
    ($($promise:ident),+ $(,)?) => {$(
        mod $promise {
            #[test]
            fn memory() {
                super::suite::$promise(super::MemoryEngine::new());
            }

            #[test]
            fn disk() {
                super::suite::$promise(super::disk_engine());
            }
        }
    )+};
}

both! {
    a_commit_is_seen_whole_and_a_dropped_transaction_not_at_all,
    a_transaction_reads_its_own_writes,
    a_rollback_undoes_to_the_savepoint_and_no_further,
    scans_are_ordered_and_bounded,
    keys_from_an_offset_begin_behind_so_many,
    a_view_never_changes,
    replacing_shows_the_new_rows_alone,
    a_failed_replacement_changes_nothing,
    keys_and_values_are_any_bytes,
    readers_see_whole_transactions_only,
}
