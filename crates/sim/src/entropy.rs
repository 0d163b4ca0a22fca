//! The operating system's randomness, taken from the seed while a simulation runs.
//!
//! The standard library's hash maps, tokio's choice among ready branches and openraft's election time-outs take their
//! randomness from the C library's `getrandom`. This program brings its own, which the linker takes instead: the
//! simulator's, while one runs; the kernel's, else. Only one simulation runs in a process at a time ([`Simulated`]), on
//! threads of its own that take turns, so that the numbers come in the same order each time.

use std::{
    io::Read,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::dice::Dice;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static DICE: Mutex<Option<Dice>> = Mutex::new(None);

fn dice() -> MutexGuard<'static, Option<Dice>> {
    DICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For as long as it lives, all randomness of the process comes from its seed.
pub(crate) struct Simulated(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Simulated {
    /// Waits until no other simulation runs.
    pub(crate) fn begin(dice_of_run: Dice) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // Named, so that the linker keeps it.
        std::hint::black_box(getrandom as *const () as usize);
        *dice() = Some(dice_of_run);
        Self(turn)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        *dice() = None;
    }
}

/// The C library's function of this name.
#[allow(unsafe_code, reason = "the C library's interface")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: the caller promises `length` bytes at `buffer`, as to the C library.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    match dice().as_mut() {
        Some(dice) => {
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&dice.next().to_le_bytes()[..chunk.len()]);
            }
        }
        None => {
            let filled = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(bytes));
            if filled.is_err() {
                return -1;
            }
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
