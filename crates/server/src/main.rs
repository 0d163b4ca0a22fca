//! The program; everything is in the library, which the simulator uses too.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::main()
}
