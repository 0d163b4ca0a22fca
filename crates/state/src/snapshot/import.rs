//! The receiving side of a snapshot: everything is checked before it is believed.

use std::io;

use storage::{Bytes, Row};

use super::{
    CHECKSUM_BYTES, Error, FRAME_BYTES_MAX, KIND_BYTES, Kind, LENGTH_BYTES, MAGIC, VERSION, checksum, invalid,
};
use crate::{
    applied::Applied,
    hash::StateHash,
    layout::{self, APPLIED_KEY},
};

/// The rows of a snapshot behind its header, as far as they are good; its last item is an error unless all were.
pub(super) struct Import<I> {
    frames: Frames<I>,
    /// The rows of the present frame that were not yielded yet.
    body: Vec<u8>,
    body_read: usize,
    last_key: Bytes,
    rows: u64,
    hash: StateHash,
    hash_expected: StateHash,
    ended: bool,
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Import<I> {
    /// Reads the header.
    pub(super) fn open(pieces: I) -> Result<(Applied, Self), Error> {
        let mut frames = Frames { pieces, buffer: Vec::new(), consumed: 0, number: 0 };
        let (kind, body) = frames.next()?.ok_or_else(|| invalid("it is empty"))?;
        let header = body.strip_prefix(&MAGIC).filter(|_| kind == Kind::Header);
        let applied: Applied = match header.ok_or_else(|| invalid("it does not begin as a snapshot does"))? {
            [VERSION, applied @ ..] => layout::decode(applied)?,
            [version, ..] => return Err(invalid(format!("its format is version {version}, unknown to this program"))),
            [] => return Err(invalid("its header is cut short")),
        };
        let import = Self {
            frames,
            body: Vec::new(),
            body_read: 0,
            last_key: APPLIED_KEY.as_slice().into(),
            rows: 0,
            hash: StateHash::default(),
            hash_expected: applied.state_hash,
            ended: false,
        };
        Ok((applied, import))
    }

    fn next_row(&mut self) -> Result<Option<Row>, Error> {
        while self.body_read == self.body.len() {
            match self.frames.next()? {
                Some((Kind::Rows, body)) => (self.body, self.body_read) = (body, 0),
                Some((Kind::Trailer, body)) => return self.check_end(&body).map(|()| None),
                Some((Kind::Header, _)) => return Err(invalid("it has a second header")),
                None => return Err(invalid("it ends without a trailer")),
            }
        }
        let (key, value) = self.split_row().ok_or_else(|| invalid("a row does not fit its frame"))?;
        if key <= self.last_key {
            return Err(invalid("its rows are out of order"));
        }
        self.last_key = key.clone();
        self.hash.insert(&key, &value);
        self.rows += 1;
        Ok(Some((key, value)))
    }

    fn split_row(&mut self) -> Option<Row> {
        let rest = self.body.get(self.body_read..)?;
        let (key_bytes, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let (value_bytes, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
        self.body_read = self.body.len() - rest.len();
        Some((key.into(), value.into()))
    }

    fn check_end(&mut self, trailer: &[u8]) -> Result<(), Error> {
        if trailer != self.rows.to_le_bytes() {
            return Err(invalid(format!("it holds {} rows, and its trailer says otherwise", self.rows)));
        }
        if self.hash != self.hash_expected {
            return Err(invalid(format!("its rows hash to {}, and its header says {}", self.hash, self.hash_expected)));
        }
        if self.frames.next()?.is_some() {
            return Err(invalid("something follows its trailer"));
        }
        Ok(())
    }
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Iterator for Import<I> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.next_row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Frames out of pieces of any size.
struct Frames<I> {
    pieces: I,
    buffer: Vec<u8>,
    /// How much of the buffer earlier frames took.
    consumed: usize,
    number: u64,
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Frames<I> {
    /// The next frame's body, whole and checked; none at the end of the pieces.
    fn next(&mut self) -> Result<Option<(Kind, Vec<u8>)>, Error> {
        let number = self.number;
        if !self.fill(LENGTH_BYTES + KIND_BYTES)? {
            return if self.unread().is_empty() { Ok(None) } else { Err(invalid("it is cut short")) };
        }
        let length = self.unread().first_chunk::<LENGTH_BYTES>().expect("the buffer was just filled past this");
        let body_bytes = u32::from_le_bytes(*length) as usize;
        if body_bytes > FRAME_BYTES_MAX {
            return Err(invalid(format!("frame {number} claims {body_bytes} bytes")));
        }
        let body_end = LENGTH_BYTES + KIND_BYTES + body_bytes;
        if !self.fill(body_end + CHECKSUM_BYTES)? {
            return Err(invalid("it is cut short"));
        }
        let (frame, rest) = self.unread().split_at(body_end);
        if rest[..CHECKSUM_BYTES] != checksum(number, frame) {
            return Err(invalid(format!("the checksum of frame {number} is wrong")));
        }
        let kind = Kind::from_byte(frame[LENGTH_BYTES])
            .ok_or_else(|| invalid(format!("frame {number} is of an unknown kind")))?;
        let body = frame[LENGTH_BYTES + KIND_BYTES..].to_vec();
        self.consumed += body_end + CHECKSUM_BYTES;
        self.number += 1;
        Ok(Some((kind, body)))
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.consumed..]
    }

    /// Brings at least `bytes` unread bytes into the buffer; false when the pieces end before.
    fn fill(&mut self, bytes: usize) -> Result<bool, Error> {
        while self.unread().len() < bytes {
            let Some(piece) = self.pieces.next() else { return Ok(false) };
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            self.buffer.extend_from_slice(&piece?);
        }
        Ok(true)
    }
}
