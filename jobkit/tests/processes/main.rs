//! Real server processes on one SQLite file: killed, frozen, racing. A ledger that the handlers write
//! outside the database is checked afterwards.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod chaos;
mod crash;
mod frozen;
mod ledger;
mod poison;
mod races;
mod worker;

/// Not a test by itself: the body of a server process, which the tests start from this very program.
#[test]
fn server_process() {
    worker::run_if_asked();
}
