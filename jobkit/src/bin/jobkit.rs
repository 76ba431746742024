//! The command line `jobkit`: see the module `jobkit::cli`.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    jobkit::cli::CommandLine::new().program("jobkit").run(std::env::args_os().skip(1)).await
}
