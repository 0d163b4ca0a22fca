//! The faulty disk itself: what a crash keeps, and what is refused.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use storage::fs::{Disk, File, faulty::FaultyDisk};

fn disk() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_dir(Path::new("/dir")).unwrap();
    disk
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn a_crash_keeps_what_was_synced_and_closes_what_was_open() {
    let disk = disk();
    let path = Path::new("/dir/file");
    let file = disk.create(path).unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"lost", 2).unwrap();
    file.set_len(100).unwrap();
    assert_eq!(&content(&*file)[..8], b"sylost\0\0");
    disk.crash();
    assert!(file.write_all_at(b"late", 0).is_err());
    assert_eq!(content(&*disk.open(path).unwrap()), b"synced");
    assert_eq!(disk.syncs(), 1);
}

#[test]
fn names_survive_only_a_sync_of_their_directory() {
    let disk = disk();
    let dir = Path::new("/dir");
    disk.create(&dir.join("one")).unwrap();
    disk.sync_dir(dir).unwrap();
    disk.create(&dir.join("two")).unwrap();
    disk.rename(&dir.join("one"), &dir.join("renamed")).unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["renamed", "two"]);
    disk.crash();
    assert_eq!(disk.list(dir).unwrap(), ["one"]);
    disk.rename(&dir.join("one"), &dir.join("renamed")).unwrap();
    disk.sync_dir(dir).unwrap();
    disk.crash();
    assert_eq!(disk.list(dir).unwrap(), ["renamed"]);
    disk.remove(&dir.join("renamed")).unwrap();
    disk.crash();
    assert_eq!(disk.list(dir).unwrap(), ["renamed"]);
}

#[test]
fn a_torn_crash_keeps_any_sectors_and_the_same_seed_the_same() {
    let torn = |seed| {
        let disk = disk();
        let file = disk.create(Path::new("/dir/file")).unwrap();
        disk.sync_dir(Path::new("/dir")).unwrap();
        file.write_all_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 2048], 0).unwrap();
        disk.crash_torn(seed);
        content(&*disk.open(Path::new("/dir/file")).unwrap())
    };
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let content = torn(seed);
        assert_eq!(content, torn(seed));
        for sector in content.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "half a sector");
        }
        outcomes.insert(content);
    }
    assert_eq!(outcomes.len(), 16, "every choice of four sectors");
}

#[test]
fn a_full_disk_takes_writes_only_where_space_was_reserved() {
    let disk = disk();
    disk.set_capacity(Some(3 * 4096));
    let file = disk.create(Path::new("/dir/file")).unwrap();
    file.allocate(2 * 4096).unwrap();
    assert_eq!(file.allocate(4 * 4096).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 2 * 4096);
    let other = disk.create(Path::new("/dir/other")).unwrap();
    other.write_all_at(&[1; 100], 0).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 4096);
    assert_eq!(other.write_all_at(&[1; 100], 4096).unwrap_err().kind(), ErrorKind::StorageFull);
    other.set_len(1 << 20).unwrap();
    file.write_all_at(&[1; 8192], 0).unwrap();
    disk.remove(Path::new("/dir/other")).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 4096, "an open file keeps its space");
    drop(other);
    assert_eq!(disk.used_bytes(), 2 * 4096);
}

#[test]
fn exactly_the_chosen_operation_fails() {
    let disk = disk();
    disk.fail_at(disk.operations() + 1, ErrorKind::PermissionDenied);
    let file = disk.create(Path::new("/dir/file")).unwrap();
    assert_eq!(file.write_all_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    file.write_all_at(b"x", 0).unwrap();
}
