//! `completion`: scripts for shells.

use clap::CommandFactory;

use super::args::{Arguments, Completion};
use super::console::Console;
use super::{Done, Exit, Stop};

pub(super) fn run(args: &Completion, program: &str, console: &mut Console<'_>) -> Done {
    // Shells complete by the first word alone.
    if program.contains(char::is_whitespace) {
        let words = format!("completion needs a program of one word, and this one is `{program}`");
        return Err(Stop::Usage(words));
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), program, &mut script);
    console.script(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
