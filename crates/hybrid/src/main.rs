//! The `hybrid` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hybrid::cli::main()
}
