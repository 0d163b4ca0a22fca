//! The program; everything is in the library, which the simulator uses too.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Memory goes from thread to thread here, with each command and with each page: what one thread had and another frees costs this
// allocator no lock, and it keeps less of it. Numbers are in docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    server::main()
}
