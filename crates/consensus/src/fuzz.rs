//! Harnesses for whatever bytes may come from the disk and from peers; see `state::fuzz`.

use state::fuzz::Target;

/// The log's records.
pub const LOG_RECORD: Target = crate::log::disk::LOG_RECORD;
/// What members say to each other.
pub const MESSAGE: Target = crate::transport::fuzz::MESSAGE;

#[cfg(test)]
mod tests {
    use state::fuzz::corpora;

    use super::*;

    /// Enough to reach every branch, and over in a second or two.
    const MUTATIONS: u64 = 100_000;

    fn run(target: Target) {
        target.run_short(&corpora(env!("CARGO_MANIFEST_DIR")), MUTATIONS);
    }

    #[test]
    fn log_records() {
        run(LOG_RECORD);
    }

    #[test]
    fn messages() {
        run(MESSAGE);
    }

    #[test]
    #[ignore = "writes the corpus: `just fuzz-seeds`"]
    fn write_seeds() {
        for target in [LOG_RECORD, MESSAGE] {
            target.write_seeds(&corpora(env!("CARGO_MANIFEST_DIR"))).expect("the corpus can be written");
        }
    }
}
