//! Long texts. To read a body of 18 MiB, or to write a value of 6 MiB as JSON, takes a processor for tens of milliseconds. A
//! connection stays with its thread, so all others of that thread would wait for it, whoever they are of: such work is done
//! beside, by few at a time, and the others get the processor in between.

use std::sync::Arc;

use consensus::env::{self, Env};
use tokio::sync::Semaphore;

/// From this length on, in bytes, a text is long. It is about 0.1 ms of work: ten times what it costs to have it done beside.
const LONG_BYTES: usize = 128 * 1024;

/// Where long texts are read and written.
pub(crate) struct LongTexts {
    env: Arc<dyn Env>,
    places: Arc<Semaphore>,
}

impl LongTexts {
    /// At most `at_once` at a time, which is one at least.
    pub(crate) fn new(env: Arc<dyn Env>, at_once: usize) -> Self {
        Self { env, places: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Whether a text of this length is long.
    pub(crate) fn is_long(bytes: usize) -> bool {
        bytes >= LONG_BYTES
    }

    /// What `work` on a text of this length comes to: done here when it is short, and else beside, in its turn. What has begun
    /// is done also when nobody waits for it any more, and keeps its place until then.
    pub(crate) async fn work<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        if !Self::is_long(bytes) {
            return work();
        }
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        env::blocking(&*self.env, move || {
            let _place = place;
            work()
        })
        .await
    }
}

/// How many bytes a text has as JSON, with its quotes: what has to be free before it is written.
pub(crate) fn json_bytes(text: &str) -> usize {
    // RFC 8259, section 7, as `serde_json` writes it: two bytes where there is a short form, six for other controls.
    let more = |byte: u8| match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + 2 + text.bytes().map(more).sum::<usize>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        sync::{Barrier, mpsc},
        thread,
    };

    use consensus::env::System;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_has_as_many_bytes_as_it_is_written_with(text in "[\\x00-\\x7f\"\\\\\u{e4}\u{1f600}]*") {
            prop_assert_eq!(json_bytes(&text), serde_json::to_string(&text).unwrap().len());
        }
    }

    #[tokio::test]
    async fn what_is_long_is_done_beside_and_what_is_short_is_not() {
        let texts = LongTexts::new(Arc::new(System::new()), 1);
        let here = thread::current().id();
        let done_by = |bytes| texts.work(bytes, || thread::current().id());
        assert_eq!(done_by(LONG_BYTES - 1).await, here);
        assert_ne!(done_by(LONG_BYTES).await, here);
    }

    #[tokio::test]
    async fn no_more_are_at_work_than_may_be_even_when_nobody_waits() {
        let texts = Arc::new(LongTexts::new(Arc::new(System::new()), 1));
        let (begun, has_begun) = mpsc::channel();
        let gate = Arc::new(Barrier::new(2));
        let first = tokio::spawn({
            let (texts, gate) = (texts.clone(), gate.clone());
            async move {
                let work = move || {
                    begun.send(()).unwrap();
                    gate.wait();
                };
                texts.work(LONG_BYTES, work).await;
            }
        });
        while has_begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(texts.places.available_permits(), 0, "its place is taken until it is done");
        gate.wait();
        texts.work(LONG_BYTES, || ()).await;
    }
}
