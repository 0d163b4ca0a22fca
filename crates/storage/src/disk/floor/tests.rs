#![allow(clippy::unwrap_used)]

use redb::ReadableTableMetadata as _;

use super::*;
use crate::fs::faulty::FaultyDisk;

fn rows(
    keys: impl Iterator<Item = u32>,
    value: Option<Vec<u8>>,
) -> impl Iterator<Item = Result<(Bytes, Option<Bytes>)>> {
    let value = value.map(Bytes::from);
    keys.map(move |key| Ok((Bytes::from(key.to_be_bytes().as_slice()), value.clone())))
}

/// Commits with not a byte left on the disk: what `stage` made room for must be enough.
fn checkpoint(disk: &FaultyDisk, store: &Arc<Store>, rows: impl Iterator<Item = Result<(Bytes, Option<Bytes>)>>) {
    let staged = store.stage(rows).unwrap();
    let file_bytes = store.space.file_bytes();
    disk.set_capacity(Some(0));
    store.seal(staged).unwrap();
    disk.set_capacity(None);
    assert!(store.space.file_bytes() <= file_bytes, "the file grew after it was staged");
}

fn new_store(disk: &FaultyDisk) -> Arc<Store> {
    let path = Path::new("/floor");
    disk.create_dir(Path::new("/")).unwrap();
    Arc::new(Store::create(disk, path, path, 1 << 20).unwrap())
}

fn row_of(key: &'static str, value: Option<Vec<u8>>) -> std::iter::Once<Result<(Bytes, Option<Bytes>)>> {
    std::iter::once(Ok((key.as_bytes().into(), value.map(Bytes::from))))
}

/// How many pieces there are of all values together.
fn pieces_of(store: &Arc<Store>) -> u64 {
    store.floor().unwrap().pieces.unwrap().len().unwrap()
}

#[test]
fn a_long_value_comes_back_and_takes_its_pieces_along() {
    let disk = FaultyDisk::new();
    let store = new_store(&disk);
    let mut pieces = Vec::new();
    for bytes in [0, 5_000, 4_000, 65_536, 100_000, 65_536, 1 << 20, 4_060, 4_080, 9_000, 3, 300_000] {
        let value: Vec<u8> = (0..bytes).map(|at: u32| (at * 7 % 251) as u8).collect();
        checkpoint(&disk, &store, row_of("key", Some(value.clone())));
        let floor = store.floor().unwrap();
        assert!(floor.get(b"key").unwrap().as_deref() == Some(&*value), "a value of {bytes} bytes");
        pieces.push(pieces_of(&store));
    }
    assert_eq!(pieces, [0, 1, 0, 1, 2, 1, 16, 0, 1, 1, 0, 6]);
    checkpoint(&disk, &store, row_of("key", None));
    assert_eq!(pieces_of(&store), 0);
    assert!(store.floor().unwrap().get(b"key").unwrap().is_none());
}

#[test]
fn long_values_take_less_than_a_page_more_than_their_bytes() {
    // Of 6,091 and 10,187 bytes more than half a page is left over.
    for value_bytes in [4_096, 5_000, 6_091, 10_000, 10_187, 40_000, 65_536, 100_000, 300_000] {
        let disk = FaultyDisk::new();
        let store = new_store(&disk);
        let keys = 20_000_000 / value_bytes;
        checkpoint(&disk, &store, rows(0..keys, Some(vec![1; value_bytes as usize])));
        let stored = store.floor().unwrap();
        let pages = |table: &ReadOnlyTable<RawBytes, RawBytes>| {
            let stats = table.stats().unwrap();
            stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()
        };
        let taken = pages(&stored.rows) + pages(stored.pieces.as_ref().unwrap());
        let least = u64::from(keys * value_bytes);
        // All of it: what the pages hold, and what is left free in them.
        let most = least + u64::from(keys) * 4_096;
        assert!(taken < most, "{taken} bytes for {least} in values of {value_bytes}");
    }
}

/// What was written before there were pieces.
#[test]
fn a_long_value_in_one_row_is_read_and_replaced() {
    let disk = FaultyDisk::new();
    let path = Path::new("/floor");
    disk.create_dir(Path::new("/")).unwrap();
    let (backend, _) = Backend::new(disk.create(path).unwrap()).unwrap();
    let database = Database::builder().create_with_backend(backend).unwrap();
    let mut sealed = Vec::new();
    row::seal(b"old", &[5; 65_536], &mut sealed);
    let transaction = database.begin_write().unwrap();
    transaction.open_table(ROWS).unwrap().insert(b"old".as_slice(), &*sealed).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let store = Arc::new(Store::open(&disk, path, 1 << 20).unwrap());
    assert_eq!(store.floor().unwrap().get(b"old").unwrap().as_deref(), Some([5; 65_536].as_slice()));
    checkpoint(&disk, &store, row_of("new", Some(vec![6; 65_536])));
    let floor = store.floor().unwrap();
    assert_eq!(floor.get(b"old").unwrap().as_deref(), Some([5; 65_536].as_slice()));
    assert_eq!(floor.get(b"new").unwrap().as_deref(), Some([6; 65_536].as_slice()));
    checkpoint(&disk, &store, row_of("old", Some(vec![7; 65_536])));
    assert_eq!(store.floor().unwrap().get(b"old").unwrap().as_deref(), Some([7; 65_536].as_slice()));
    assert_eq!(pieces_of(&store), 2);
}

#[test]
fn a_piece_that_is_gone_or_another_is_told_as_damage() {
    for is_gone in [true, false] {
        let disk = FaultyDisk::new();
        let store = new_store(&disk);
        checkpoint(&disk, &store, row_of("key", Some(vec![1; 100_000])));
        let key = pieces::keys(b"key").nth(1).unwrap();
        let transaction = store.begin().unwrap();
        let mut pieces = transaction.open_table(PIECES).unwrap();
        let mut piece = pieces.remove(&*key).unwrap().unwrap().value().to_vec();
        if !is_gone {
            piece[9] ^= 1;
            pieces.insert(&*key, &*piece).unwrap();
        }
        drop(pieces);
        transaction.commit().unwrap();
        let error = store.floor().unwrap().get(b"key").unwrap_err();
        assert!(matches!(&error, Error::Corrupt { path, .. } if path == "/floor"), "{error}");
    }
}

#[test]
fn a_commit_never_grows_the_file() {
    for (keys, value_bytes) in [(10, 10), (3_000, 10), (20_000, 10), (20_000, 200), (2_000, 5_000), (40, 300_000)] {
        let disk = FaultyDisk::new();
        let store = new_store(&disk);
        let value = Some(vec![1; value_bytes]);
        checkpoint(&disk, &store, rows(0..keys, value.clone()));
        // Pages of the first rows stay pinned, so that the lists of freed pages grow.
        let pinned = store.floor().unwrap();
        for step in [1, 2, 7, 50, 1] {
            checkpoint(&disk, &store, rows((0..keys).step_by(step), value.clone()));
        }
        drop(pinned);
        checkpoint(&disk, &store, rows(keys..keys + 10, value.clone()));
        checkpoint(&disk, &store, rows((0..keys).step_by(3), None));
        checkpoint(&disk, &store, rows(0..keys, None));
        checkpoint(&disk, &store, rows(0..keys, value));
    }
}
