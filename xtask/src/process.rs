//! Running other programs, in the open.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Failure, Outcome};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let xtask = PathBuf::from(xtask);
    xtask.parent().map(PathBuf::from).unwrap_or(xtask)
}

/// `cargo` with these arguments, at the root.
///
/// What the cargo that started us says about this package is not passed on, so that builds are the
/// same as without us, and share one target directory.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if ours {
            command.env_remove(name);
        }
    }
    command
}

/// Prints the command, runs it to its end, and fails if it does.
pub(crate) fn run(mut command: Command) -> Outcome {
    announce(&command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Because(format!("`{}` failed: {status}", shown(&command)))),
        Err(error) => Err(Failure::Because(format!("cannot run `{}`: {error}", shown(&command)))),
    }
}

/// As [`run`], and answers what stands behind `mark` in the lines that begin so, each once.
pub(crate) fn run_and_collect(mut command: Command, mark: &str) -> (Outcome, Vec<String>) {
    announce(&command);
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            let failure = Failure::Because(format!("cannot run `{}`: {error}", shown(&command)));
            return (Err(failure), Vec::new());
        }
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut marked = std::thread::scope(|scope| {
        let out =
            scope.spawn(|| out.map_or_else(Vec::new, |out| pass_on(out, std::io::stdout(), mark)));
        let mut marked = err.map_or_else(Vec::new, |err| pass_on(err, std::io::stderr(), mark));
        marked.extend(out.join().unwrap_or_default());
        marked
    });
    let mut seen = std::collections::BTreeSet::new();
    marked.retain(|line| seen.insert(line.clone()));
    let outcome = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Because(format!("`{}` failed: {status}", shown(&command)))),
        Err(error) => Err(Failure::Because(format!("`{}` was lost: {error}", shown(&command)))),
    };
    (outcome, marked)
}

/// Copies line by line; what stands behind the mark, in lines that begin with it.
fn pass_on(from: impl Read, mut to: impl Write, mark: &str) -> Vec<String> {
    let mut from = BufReader::new(from);
    let mut marked = Vec::new();
    let mut line = Vec::new();
    // What cannot be read or written any more ends the copy, not the program.
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let _ = to.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        marked.extend(text.trim().strip_prefix(mark).map(str::to_owned));
        line.clear();
    }
    marked
}

/// What the program prints, if it can be run and succeeds.
pub(crate) fn output_of(mut command: Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn announce(command: &Command) {
    println!("$ {}", shown(command));
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            let value = value?.to_string_lossy();
            Some(format!("{}={}", name.to_string_lossy(), quoted(&value)))
        })
        .collect();
    let program = PathBuf::from(command.get_program());
    words.push(program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned());
    words.extend(command.get_args().map(|argument| quoted(&argument.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=.,:/+".contains(c));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["nextest", "run", "-E", "test(it's)"]).env("FLAGS", "-D warnings");
        command.env_remove("OTHER");
        assert_eq!(shown(&command), r"FLAGS='-D warnings' cargo nextest run -E 'test(it'\''s)'");
    }

    #[test]
    fn marked_lines_are_collected_and_everything_passed_on() {
        let text = b"one\n    again: cargo x --seed 7\nagain:\nagain: y";
        let mut to = Vec::new();
        assert_eq!(pass_on(&text[..], &mut to, "again: "), ["cargo x --seed 7", "y"]);
        assert_eq!(to, text);
    }

    #[test]
    fn the_root_is_where_the_workspace_is() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
