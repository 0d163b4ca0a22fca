//! The harness of the log's records; see `state::fuzz`.
//!
//! The input is taken as bytes of a segment, which are read to their end as recovery does. Then as the body of one record,
//! put into a frame whose checksum is right: it is refused, or is a record that is written as the same record again. Nothing
//! but the whole frame, in its own place and its segment's own life, is a record.

use std::sync::Arc;

use state::{
    command::{Command, Condition, Data, Write},
    fuzz::Target,
    ids::{ApiKeyId, ScopeId},
    kv::{Key, Value},
};

use super::*;
use crate::log::disk::segment::Header;

/// See the module.
pub(crate) const LOG_RECORD: Target = Target { name: "log_record", check, seeds };

const OFFSET: u64 = 4_096;

fn identity() -> Identity {
    Identity::new("a log").expect("it is short")
}

fn life(segment: u64) -> Life {
    Life::new(&identity(), segment)
}

fn check(input: &[u8]) {
    let mut at = 0;
    while let Ok(Some((_, end))) = parse(input, at, life(1), at as u64) {
        assert!(end > at && end <= input.len());
        at = end;
    }
    furthest_synced(input, 0, life(1));
    if let Some(header) = Header::parse(input) {
        assert_eq!(Header::parse(&header.encode()).as_ref(), Some(&header), "a header is read as it was written");
    }
    check_body(input);
}

fn check_body(input: &[u8]) {
    let frame = framed(|out| out.extend_from_slice(input), OFFSET);
    for (life, offset) in [(life(2), OFFSET), (life(1), OFFSET + 1)] {
        assert!(matches!(parse(&frame, 0, life, offset), Ok(None)), "a record of elsewhere");
    }
    let cut = &frame[..frame.len() - 1];
    assert!(matches!(parse(cut, 0, life(1), OFFSET), Ok(None)), "a record that is cut");
    // An error is a kind, version or content that this program does not know.
    let Ok(Some((record, end))) = parse(&frame, 0, life(1), OFFSET) else { return };
    assert_eq!(end, frame.len());
    let again = framed(|out| put_record(out, &record), OFFSET);
    assert!(again.len() <= frame.len(), "the encoding is longer than what was decoded");
    match (&record, parse(&again, 0, life(1), OFFSET)) {
        (Record::Entry(position, payload), Ok(Some((Record::Entry(same, reread), _)))) => {
            assert_eq!(*position, same);
            assert_eq!(
                payload.decode(same).ok(),
                reread.decode(same).ok(),
                "an entry is another one when it is read again"
            );
        }
        (record, Ok(Some((reread, _)))) => assert_eq!(*record, reread),
        (record, unread) => panic!("{record:?} is written, but not read: {unread:?}"),
    }
}

/// The body of a record. An entry that cannot be decoded is kept as it is.
fn put_record(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Entry(position, payload) => match payload.decode(*position) {
            Ok(entry) => put_entry(out, &entry),
            Err(_) => {
                out.extend_from_slice(&[ENTRY, VERSION]);
                out.extend_from_slice(&position.term.to_le_bytes());
                out.extend_from_slice(&position.index.to_le_bytes());
                out.extend_from_slice(payload.0);
            }
        },
        Record::Vote(vote) => put_vote(out, vote),
        Record::Truncated(last) => put_truncated(out, *last),
        Record::Purged(upto) => put_purged(out, *upto),
        Record::Committed(upto) => put_committed(out, *upto),
        Record::Synced(place) => put_synced(out, *place),
        Record::State(state) => put_state(out, state),
        Record::Sealed => put_sealed(out),
    }
}

fn framed(body: impl FnOnce(&mut Vec<u8>), offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let begin = open(&mut out);
    body(&mut out);
    close(&mut out, begin, life(1), offset);
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let position = Position { term: 3, index: 300 };
    let vote = StoredVote { term: 3, voted_for: MemberId::from(1), committed: true };
    let records = [
        Record::Vote(vote),
        Record::Truncated(Some(position)),
        Record::Truncated(None),
        Record::Purged(position),
        Record::Committed(Some(position)),
        Record::Synced(Place { segment: 3, offset: 77 }),
        Record::State(State { vote: Some(vote), purged: None, committed: Some(position), last: Some(position) }),
        Record::Sealed,
    ];
    let body = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        out
    };
    let mut seeds: Vec<_> = records.iter().map(|record| body(&|out| put_record(out, record))).collect();
    seeds.extend(entries(position).iter().map(|entry| body(&|out| put_entry(out, entry))));
    let stream = seeds.clone().into_iter().fold(Vec::new(), |mut stream, seed| {
        let offset = stream.len() as u64;
        stream.extend(framed(|out| out.extend_from_slice(&seed), offset));
        stream
    });
    seeds.push(stream);
    let header = Header { version: 1, seq: 7, bytes: 65_536, identity: identity() };
    seeds.push(header.encode().to_vec());
    // A frame that claims 4 GiB; an entry that claims 2^60 commands.
    seeds.push([&[0xff; 4][..], &[0; 4], &[ENTRY, VERSION]].concat());
    let long = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    seeds.push([&[ENTRY, VERSION][..], &[0; 16], &[1, 5], &long].concat());
    seeds
}

fn entries(position: Position) -> [Entry; 3] {
    let write = Write::Put {
        key: Key::new("key", 10).expect("it is short"),
        value: Value::new("value", 10).expect("it is short"),
        condition: Condition::RevisionIs(300),
    };
    let data = Data {
        scope: ScopeId::ROOT,
        api_key: ApiKeyId::ROOT,
        request: None,
        quota_bytes: Some(7),
        writes: vec![write],
    };
    let batch = Batch { time_unix_ms: 5, commands: vec![Command::Data(data)] };
    let peers =
        BTreeMap::from([(MemberId::from(1), Peer { address: "db1:8082".to_owned() }), (2.into(), Peer::default())]);
    let configs = vec![BTreeSet::from([MemberId::from(1)])];
    let membership = Membership::new(configs, peers).expect("the voter is there");
    let entry = |payload| Entry { log_id: types::log_id(position), payload };
    [
        entry(EntryPayload::Blank),
        entry(EntryPayload::Normal(Proposal(Arc::new(batch)))),
        entry(EntryPayload::Membership(membership)),
    ]
}
