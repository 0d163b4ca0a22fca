//! The sending side of a snapshot.

use storage::{Bytes, KeyRange, View};

use super::{CHECKSUM_BYTES, FRAME_BYTES, KIND_BYTES, Kind, LENGTH_BYTES, MAGIC, VERSION, checksum};
use crate::{
    layout::{self, APPLIED_KEY},
    outcome::Fault,
    query::Reader,
};

impl<V: View> Reader<V> {
    /// This view as a stream of bytes, a frame at a time. Lazy; holds the view until it is dropped. Ends after an error.
    pub fn export(&self) -> Export<V> {
        Export { reader: self.clone(), next: Next::Header, frames: 0, rows: 0 }
    }
}

/// A view's frames; see [`Reader::export`].
pub struct Export<V: View> {
    reader: Reader<V>,
    next: Next,
    frames: u64,
    rows: u64,
}

/// Which frame comes next.
enum Next {
    Header,
    /// Rows whose keys are greater than this.
    RowsAfter(Bytes),
    Trailer,
    Nothing,
}

impl<V: View> Iterator for Export<V> {
    type Item = Result<Vec<u8>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Header => Some(self.header()),
            Next::RowsAfter(last) => Some(self.rows_after(&last)),
            Next::Trailer => Some(Ok(self.frame(Kind::Trailer, &self.rows.to_le_bytes()))),
            Next::Nothing => None,
        }
    }
}

impl<V: View> Export<V> {
    fn header(&mut self) -> Result<Vec<u8>, Fault> {
        let applied = layout::encode(&self.reader.applied()?);
        self.next = Next::RowsAfter(APPLIED_KEY.as_slice().into());
        Ok(self.frame(Kind::Header, &[MAGIC.as_slice(), &[VERSION], &applied].concat()))
    }

    fn rows_after(&mut self, last: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::with_capacity(FRAME_BYTES);
        let mut next = Next::Trailer;
        for row in self.reader.view().scan(KeyRange::prefix_after(&[], last)) {
            let (key, value) = row?;
            body.extend_from_slice(&length(&key));
            body.extend_from_slice(&length(&value));
            body.extend_from_slice(&key);
            body.extend_from_slice(&value);
            self.rows += 1;
            if body.len() >= FRAME_BYTES {
                next = Next::RowsAfter(key);
                break;
            }
        }
        self.next = next;
        Ok(self.frame(Kind::Rows, &body))
    }

    fn frame(&mut self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(LENGTH_BYTES + KIND_BYTES + body.len() + CHECKSUM_BYTES);
        frame.extend_from_slice(&length(body));
        frame.push(kind as u8);
        frame.extend_from_slice(body);
        let checksum = checksum(self.frames, &frame);
        frame.extend_from_slice(&checksum);
        self.frames += 1;
        frame
    }
}

fn length(bytes: &[u8]) -> [u8; LENGTH_BYTES] {
    u32::try_from(bytes.len()).expect("keys, values and frames stay far below 4 GiB").to_le_bytes()
}
