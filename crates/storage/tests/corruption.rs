//! A store whose file was damaged while nobody had it open: every sector of it is flipped or zeroed, and it is cut. Each
//! time it is refused as damaged, or shows exactly what the last checkpoint wrote, and goes on from there.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use storage::{
    Bytes, DiskEngine, Engine, Error, KeyRange, Read, Transaction, View,
    disk::Options,
    fs::{Disk, faulty::FaultyDisk},
};

const DIR: &str = "/store";
const FILE: &str = "/store/floor.redb";
const SECTOR_BYTES: usize = 512;

type Rows = BTreeMap<Bytes, Bytes>;

fn open(disk: &FaultyDisk) -> Result<DiskEngine, Error> {
    DiskEngine::open(Arc::new(disk.clone()), Path::new(DIR), Options { cache_bytes: 1 << 20 })
}

fn key(number: u32) -> Bytes {
    format!("key {number:05}").as_bytes().into()
}

fn content(disk: &FaultyDisk) -> Vec<u8> {
    let file = disk.open(Path::new(FILE)).unwrap();
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn disk_with(content: &[u8]) -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_dir(Path::new(DIR)).unwrap();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.write_all_at(content, 0).unwrap();
    disk
}

/// A store of several checkpoints: rows written, written again, removed. Its file, closed or as a crash leaves it, and
/// what is in it.
fn made(crashed: bool) -> (Vec<u8>, Rows) {
    let disk = FaultyDisk::new();
    let engine = open(&disk).unwrap();
    let mut rows = Rows::new();
    for round in 0_u8..4 {
        let mut transaction = engine.begin();
        for number in (0..600).filter(|number: &u32| number.is_multiple_of(u32::from(round) + 1)) {
            // Some of them longer than a page.
            let bytes = if number % 150 == 7 { 9_000 } else { 60 + number as usize % 50 };
            let value: Bytes = vec![round; bytes].into();
            transaction.put(&key(number), &value);
            rows.insert(key(number), value);
        }
        for number in (0..600).filter(|number| round > 0 && number % 11 == u32::from(round)) {
            transaction.delete(&key(number));
            rows.remove(&key(number));
        }
        transaction.commit().unwrap();
        engine.checkpoint().unwrap();
    }
    if crashed {
        disk.crash();
    }
    drop(engine);
    (content(&disk), rows)
}

/// Reads every row in both ways, and then writes and reads again.
fn read_back(engine: &DiskEngine, expected: &Rows) -> Result<(), Error> {
    let view = engine.view();
    let scanned: Rows = view.scan(KeyRange { start: Bytes::from([]), end: None }).collect::<Result<_, _>>()?;
    assert!(scanned == *expected, "a scan shows other rows than were written");
    let some = expected.len() / 2;
    let behind: Vec<Bytes> = view.keys(KeyRange::prefix(b""), some as u64).collect::<Result<_, _>>()?;
    assert!(behind.iter().eq(expected.keys().skip(some)), "keys from an offset are others than were written");
    for number in 0..600 {
        assert!(view.get(&key(number))?.as_ref() == expected.get(&key(number)), "row {number} is not what was written");
    }
    Ok(())
}

/// Whether the damage was noticed; panics when a wrong row is shown.
fn is_noticed(damaged: &[u8], expected: &Rows) -> bool {
    let disk = disk_with(damaged);
    let found = open(&disk).and_then(|engine| {
        read_back(&engine, expected)?;
        let mut more = expected.clone();
        let mut transaction = engine.begin();
        for number in 600..650 {
            transaction.put(&key(number), &[9; 200]);
            more.insert(key(number), vec![9; 200].into());
        }
        transaction.commit()?;
        engine.checkpoint()?;
        drop(engine);
        // What was damaged must not show up later either, in pages that were thought to be free.
        read_back(&open(&disk)?, &more)
    });
    match found {
        Ok(()) => false,
        Err(Error::Corrupt { path, .. }) => {
            assert_eq!(path, FILE);
            true
        }
        Err(error) => panic!("not told as damage: {error}"),
    }
}

fn sectors_in_use(content: &[u8]) -> Vec<usize> {
    let chunks = content.chunks(SECTOR_BYTES).enumerate();
    chunks.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0)).map(|(at, _)| at * SECTOR_BYTES).collect()
}

/// Damages every `step`th sector that holds anything.
fn damage_sectors(crashed: bool, step: usize) {
    let (good, expected) = made(crashed);
    assert!(!is_noticed(&good, &expected), "an undamaged file is refused");
    let sectors = sectors_in_use(&good);
    assert!(sectors.len() > 200, "too little to damage: {}", sectors.len());
    let mut noticed = 0;
    for (number, sector) in sectors.iter().enumerate().step_by(step) {
        let mut damaged = good.clone();
        if (number / step).is_multiple_of(2) {
            damaged[*sector..sector + SECTOR_BYTES].fill(0);
        } else {
            // Another place and bit in each.
            let at = sector + number * 97 % SECTOR_BYTES;
            damaged[at] ^= 1 << (number % 8);
        }
        noticed += usize::from(is_noticed(&damaged, &expected));
    }
    let damaged = sectors.len().div_ceil(step);
    println!("{damaged} sectors damaged, {noticed} times noticed, else harmless");
    // Most sectors hold pages of earlier checkpoints, which nothing shows any more.
    assert!(noticed * 8 > damaged, "noticed only {noticed} of {damaged}");
}

#[test]
fn damage_to_a_closed_store_is_noticed_or_harmless() {
    damage_sectors(false, 1);
}

#[test]
fn damage_to_a_crashed_store_is_noticed_or_harmless() {
    damage_sectors(true, 3);
}

#[test]
fn damage_to_any_byte_of_the_head_is_noticed_or_harmless() {
    let (good, expected) = made(false);
    // Magic, layout, and both commit slots.
    for at in 0..320 {
        let mut damaged = good.clone();
        damaged[at] ^= 1 << (at % 8);
        is_noticed(&damaged, &expected);
    }
}

#[test]
fn a_cut_store_is_refused() {
    let (good, expected) = made(false);
    for cut in [1, 319, 511, 4096, 4097, good.len() / 4, good.len() / 2, good.len() - 4096, good.len() - 1] {
        assert!(is_noticed(&good[..cut], &expected), "cut to {cut} bytes of {}", good.len());
    }
    let mut longer = good.clone();
    longer.resize(good.len() + 4096, 0);
    is_noticed(&longer, &expected);
}
