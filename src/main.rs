//! args → config → logging → command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    streamway::cli::main()
}
