//! `completion`: scripts for shells.

use clap::CommandFactory;

use super::args::{Arguments, Completion};
use super::console::Console;
use super::{Done, Exit};

pub(super) fn run(args: &Completion, console: &mut Console<'_>) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "jobkit", &mut script);
    console.script(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
