//! Mutations of a corpus, the same ones for the same name.

use xxhash_rust::xxh3::xxh3_64;

/// What numbers look like at their ends, as one byte and as the lengths of postcard.
const TELLING: [&[u8]; 8] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    // 2^32 - 1, 2^60, and 2^64 - 1.
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];
const INPUT_BYTES_MAX: usize = 4_096;

/// An endless row of inputs.
pub(super) struct Mutator {
    corpus: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    pub(super) fn new(name: &str, corpus: Vec<Vec<u8>>) -> Self {
        assert!(!corpus.is_empty(), "an empty corpus has no mutations");
        Self { corpus, state: xxh3_64(name.as_bytes()) | 1 }
    }

    /// xorshift64*.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        usize::try_from(random % bound.max(1) as u64).expect("it is below a length")
    }

    pub(super) fn next(&mut self) -> Vec<u8> {
        let start = self.below(self.corpus.len());
        let mut input = self.corpus[start].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(16).min(input.len() - at);
        let telling = TELLING[self.below(TELLING.len())];
        match self.below(8) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = u8::try_from(self.below(256)).expect("it is below 256"),
            3 => drop(input.splice(at..end, telling.iter().copied())),
            4 => drop(input.splice(at..at, telling.iter().copied())),
            5 => drop(input.drain(at..end)),
            6 => {
                let part = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                drop(input.splice(to..to, part));
            }
            7 => {
                let other = self.below(self.corpus.len());
                let other = &self.corpus[other];
                let tail = other[at.min(other.len())..].to_vec();
                input.truncate(at);
                input.extend(tail);
            }
            _ => input.truncate(at),
        }
    }
}
