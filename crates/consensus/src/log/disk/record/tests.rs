//! Frames as they are written, left over, copied and damaged.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use proptest::prelude::*;
use state::{
    command::{Command, Condition, Data, Write},
    ids::{ApiKeyId, ScopeId},
    kv::{Key, Value},
};

use storage::fs::{Disk, faulty::FaultyDisk};

use super::*;
use crate::{
    env::System,
    log::disk::{DiskLog, Error, FIRST_SEGMENT, SEGMENT_BYTES_MIN, Setup, segment::HEADER_BYTES},
};

fn life(segment: u64) -> Life {
    Life::new(&Identity::new("a log").unwrap(), segment)
}

fn entry() -> Entry {
    let write = Write::Put {
        key: Key::new("key", 10).unwrap(),
        value: Value::new("value", 10).unwrap(),
        condition: Condition::ValueIs(Value::new("old", 10).unwrap()),
    };
    let data = Data {
        scope: ScopeId::ROOT,
        api_key: ApiKeyId::ROOT,
        request: None,
        quota_bytes: Some(7),
        writes: vec![write],
    };
    let batch = Batch { time_unix_ms: 5, commands: vec![Command::Data(data)] };
    let position = Position { term: 3, index: 9 };
    Entry { log_id: types::log_id(position), payload: EntryPayload::Normal(Proposal(Arc::new(batch))) }
}

/// One frame of every kind, in life 4, from offset 0.
fn stream() -> Vec<u8> {
    let position = Position { term: 3, index: 8 };
    let vote = StoredVote { term: 3, voted_for: MemberId::from(1), committed: true };
    let state = State { vote: Some(vote), purged: None, committed: Some(position), last: Some(position) };
    let mut out = Vec::new();
    let mut put = |body: &dyn Fn(&mut Vec<u8>)| {
        let begin = open(&mut out);
        body(&mut out);
        close(&mut out, begin, life(4), begin as u64);
    };
    put(&|out| put_state(out, &state));
    put(&|out| put_synced(out, Place { segment: 3, offset: 77 }));
    put(&|out| put_entry(out, &entry()));
    put(&|out| put_vote(out, &vote));
    put(&|out| put_truncated(out, Some(position)));
    put(&|out| put_purged(out, position));
    put(&|out| put_committed(out, None));
    put(&|out| put_sealed(out));
    out
}

fn records(bytes: &[u8], life: Life) -> Vec<Record<'_>> {
    let mut at = 0;
    let mut records = Vec::new();
    while let Ok(Some((record, end))) = parse(bytes, at, life, at as u64) {
        if let Record::Entry(position, payload) = record {
            // Whatever the payload is, decoding it ends, and ends well.
            let _ = payload.decode(position);
        }
        records.push(record);
        at = end;
    }
    records
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    let stream = stream();
    let records = records(&stream, life(4));
    assert_eq!(records.len(), 8);
    let Record::Entry(position, payload) = records[2] else { panic!("{records:?}") };
    assert_eq!(payload.decode(position).unwrap(), entry());
    assert_eq!(records[1], Record::Synced(Place { segment: 3, offset: 77 }));
    assert_eq!(furthest_synced(&stream, 0, life(4)), Some(Place { segment: 3, offset: 77 }));
    assert_eq!(stream.len() - SEALED_FRAME_BYTES, {
        let mut sealed = Vec::new();
        let begin = open(&mut sealed);
        put_sealed(&mut sealed);
        close(&mut sealed, begin, life(4), (stream.len() - SEALED_FRAME_BYTES) as u64);
        stream.windows(sealed.len()).position(|window| window == sealed).unwrap()
    });
}

#[test]
fn a_leftover_of_another_life_is_no_record() {
    let stream = stream();
    for other in [life(5), Life::new(&Identity::new("b log").unwrap(), 4)] {
        assert_eq!(records(&stream, other), []);
        assert_eq!(furthest_synced(&stream, 0, other), None);
    }
}

#[test]
fn a_frame_copied_elsewhere_is_no_record() {
    let mut copy = vec![0; 3];
    copy.extend_from_slice(&stream());
    assert!(parse(&copy, 3, life(4), 3).unwrap().is_none());
    assert_eq!(furthest_synced(&copy, 0, life(4)), None);
}

#[tokio::test]
async fn an_entry_of_a_later_version_stops_the_start_with_a_sentence() {
    let disk = FaultyDisk::new();
    let dir = std::path::PathBuf::from("/log");
    let setup = Setup {
        disk: Arc::new(disk.clone()),
        env: Arc::new(System::new()),
        observer: Arc::new(()),
        dir: dir.clone(),
        identity: Identity::new("a log").unwrap(),
        segment_bytes: SEGMENT_BYTES_MIN,
        cache_bytes_max: 4_096,
        tail_bytes: 0,
    };
    let mut log = DiskLog::open(setup.clone()).unwrap();
    let first = Entry { log_id: types::log_id(Position { term: 3, index: 0 }), ..entry() };
    log.append([first], IOFlushed::noop()).await.unwrap();
    log.close().unwrap();

    let name = disk.list(&dir).unwrap().into_iter().find(|name| name.ends_with(".log")).unwrap();
    let file = disk.open(&dir.join(name)).unwrap();
    let mut content = vec![0; SEGMENT_BYTES_MIN as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    let life = life(FIRST_SEGMENT);
    let mut at = HEADER_BYTES;
    let end = loop {
        let (record, end) = parse(&content, at, life, at as u64).unwrap().unwrap();
        if matches!(record, Record::Entry(..)) {
            break end;
        }
        at = end;
    };
    content[at + FRAME_HEAD_BYTES + 1] = VERSION + 1;
    close(&mut content[..end], at, life, at as u64);
    file.write_all_at(&content, 0).unwrap();

    let error = DiskLog::open(setup).unwrap_err();
    assert!(
        matches!(error, Error::RecordVersion { offset, version, .. } if offset == at as u64 && version == VERSION + 1),
        "{error}"
    );
    let sentence = error.to_string();
    assert!(sentence.contains("format version 2") && sentence.contains("cannot read"), "{sentence}");
}

proptest! {
    #[test]
    fn a_mutated_stream_is_read_up_to_the_damage(at in 0..10_000_usize, flip in 1..=255_u8) {
        let good = stream();
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= flip;
        let whole = records(&good, life(4));
        let left = records(&bad, life(4));
        prop_assert!(left.len() < whole.len() && whole.starts_with(&left));
    }

    #[test]
    fn arbitrary_bodies_behind_a_good_checksum_never_panic(body in prop::collection::vec(any::<u8>(), 2..200), kind in 0..10_u8) {
        let mut out = Vec::new();
        open(&mut out);
        out.extend_from_slice(&body);
        out[FRAME_HEAD_BYTES] = kind;
        out[FRAME_HEAD_BYTES + 1] %= 2;
        close(&mut out, 0, life(1), 0);
        records(&out, life(1));
    }

    #[test]
    fn arbitrary_bytes_are_no_records(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(records(&bytes, life(1)), []);
    }

    #[test]
    fn mutated_payloads_never_panic(at in 0..10_000_usize, bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let mut body = Vec::new();
        put_entry(&mut body, &entry());
        let at = 18 + at % (body.len() - 18);
        for (place, byte) in body[at..].iter_mut().zip(bytes) {
            *place = byte;
        }
        let _ = Encoded(&body[18..]).decode(Position { term: 3, index: 9 });
    }
}
