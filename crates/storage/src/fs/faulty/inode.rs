//! One file of the faulty disk: what it is, what a crash leaves of it, and what lies between the two.

use std::collections::BTreeSet;

use super::{BLOCK_BYTES, Dice};

/// A disk writes a sector whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    content: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    unsynced_bytes: u64,
    blocks: BTreeSet<u64>,
    /// How many open handles keep it.
    pub(super) handles: u64,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(data);
            }
            Self::Len(len) => content.resize(*len as usize, 0),
        }
    }

    /// Applies the sectors, or the length, that the dice choose.
    fn apply_torn(&self, content: &mut Vec<u8>, dice: &mut Dice) {
        match self {
            Self::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    let sector_end = SECTOR_BYTES - (*offset as usize + at) % SECTOR_BYTES;
                    let end = (at + sector_end).min(data.len());
                    if dice.flip() {
                        Self::Write(offset + at as u64, data[at..end].to_vec()).apply(content);
                    }
                    at = end;
                }
            }
            Self::Len(_) => {
                if dice.flip() {
                    self.apply(content);
                }
            }
        }
    }
}

impl Inode {
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Answers how many bytes were written since the last sync.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) -> u64 {
        self.change(Change::Write(offset, data.to_vec()));
        self.unsynced_bytes += data.len() as u64;
        self.unsynced_bytes
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::Len(len));
        self.blocks.retain(|block| block * BLOCK_BYTES < len);
    }

    pub(super) fn sync(&mut self) {
        self.unsynced_bytes = 0;
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    /// Becomes what was synced; with dice, what was synced and a part of the rest.
    pub(super) fn crash(&mut self, dice: Option<&mut Dice>) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if let Some(dice) = dice {
            // Half of the crashes keep the first changes whole, half keep any sectors of any change.
            let whole = if dice.flip() { dice.below(unsynced.len() as u64 + 1) as usize } else { 0 };
            for (place, change) in unsynced.iter().enumerate() {
                if place < whole {
                    change.apply(&mut self.synced);
                } else if whole == 0 {
                    change.apply_torn(&mut self.synced, dice);
                }
            }
        }
        self.content = self.synced.clone();
        self.handles = 0;
        let len = self.content.len() as u64;
        self.blocks.retain(|block| block * BLOCK_BYTES < len);
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(super) fn missing_blocks(&self, start: u64, end: u64) -> Vec<u64> {
        (start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).filter(|block| !self.blocks.contains(block)).collect()
    }

    pub(super) fn give_blocks(&mut self, blocks: Vec<u64>) {
        self.blocks.extend(blocks);
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.content);
        self.unsynced.push(change);
    }
}
