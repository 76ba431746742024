//! The quickstart, run as people run it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder with files of every sort, and nothing else.
fn sample(files: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for n in 0..files {
        let place = root.join(format!("d{}", n % 7));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(format!("file {n}.txt")), "word ".repeat(n)).unwrap();
    }
    std::fs::write(root.join("binary"), [0xff, 0xfe, b' ', b'x', 0]).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join("ümläut.txt"), "eins\u{b}zwei\u{a0}drei\n").unwrap();
    std::fs::create_dir_all(root.join(".git")).unwrap();
    std::fs::write(root.join(".git/left-out"), "x").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("empty", root.join("link")).unwrap();
        std::fs::write(root.join("back\\slash"), "strange").unwrap();
        std::fs::write(root.join("new\nline"), "stranger").unwrap();
    }
    folder
}

/// The same numbers by coreutils and Python's notion of words.
fn expected(root: &Path) -> serde_json::Value {
    let script = r#"
import hashlib, json, os, sys
root = sys.argv[1].encode()
paths = []
for folder, folders, files in os.walk(root):
    folders[:] = [f for f in folders if f not in (b".git", b"target")]
    for name in files:
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            paths.append(os.path.relpath(path, root))
bytes_, words, lines = 0, 0, b""
paths.sort()
import subprocess
out = subprocess.run([b"sha256sum", b"--"] + paths, cwd=root, capture_output=True, check=True).stdout
for path in paths:
    data = open(os.path.join(root, path), "rb").read()
    bytes_ += len(data)
    try:
        data.decode("utf-8")
        words += len(data.split())
    except UnicodeDecodeError:
        pass
print(json.dumps({"files": len(paths), "bytes": bytes_, "words": words, "fingerprint": hashlib.sha256(out).hexdigest()}))
"#;
    let output = Command::new("python3").args(["-c", script]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn quickstart() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_quickstart"))
}

struct Run {
    work: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { work: tempfile::tempdir().unwrap() }
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(quickstart());
        command
            .arg(folder)
            .arg("--db")
            .arg(self.work.path().join("jobs.db"))
            .arg("--report")
            .arg(self.work.path().join("report.json"));
        command
    }

    fn report(&self) -> Option<serde_json::Value> {
        let text = std::fs::read(self.work.path().join("report.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn finish(&self, folder: &Path) -> String {
        let output = self.command(folder).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_report_is_what_coreutils_say() {
    let folder = sample(60);
    let run = Run::new();
    let text = run.finish(folder.path());
    assert_eq!(run.report().unwrap(), expected(folder.path()));
    assert!(text.contains("65 files, one job each"), "{text}");
    assert!(text.contains("took 3 attempts"), "{text}");
    // A second start begins a new round, and sees what changed.
    std::fs::write(folder.path().join("another"), "more words").unwrap();
    let text = run.finish(folder.path());
    assert!(text.contains("beginning a new round"), "{text}");
    assert_eq!(run.report().unwrap(), expected(folder.path()));
}

/// Starts it, and returns once a line is printed in which `is_it` finds what it looks for.
fn start_until(command: &mut Command, is_it: impl Fn(&str) -> bool) -> (Killed, Lines) {
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| is_it(&line.unwrap())), "it ended before it printed that");
    assert!(child.0.try_wait().unwrap().is_none(), "it still runs");
    (child, lines)
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn some_are_finished(line: &str) -> bool {
    let finished = line.trim().split(" of ").next().and_then(|n| n.parse::<u32>().ok());
    finished.is_some_and(|finished| finished > 0)
}

/// The numbers of one kind in the table: succeeded, retried, taken back, failed.
fn tally(text: &str, kind: &str) -> [u64; 4] {
    let line = text.lines().find(|line| line.starts_with(&format!("{kind}  ")));
    let mut numbers =
        line.unwrap().split_whitespace().skip(1).map(|number| number.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

#[test]
fn killed_half_way_it_goes_on_with_the_rest() {
    let folder = sample(100);
    let run = Run::new();
    let (first, _) =
        start_until(run.command(folder.path()).args(["--slow", "300"]), some_are_finished);
    drop(first);
    assert!(run.report().is_none());

    // Another folder is not mixed into the report of the first one.
    let other = sample(1);
    let refused = run.command(other.path()).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("holds an unfinished scan of"), "{words}");
    assert!(words.contains("--db"), "{words}");

    let began = Instant::now();
    let text = run.finish(folder.path());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(text.contains("finished files are not read again"), "{text}");
    assert!(text.contains(" of the killed process return within 5 s"), "{text}");
    assert_eq!(run.report().unwrap(), expected(folder.path()));
    // Finished work was not done again: each file succeeded once. What the first start held came back.
    let [succeeded, _, taken_back, failed] = tally(&text, "fingerprint");
    assert_eq!((succeeded, failed), (105, 0), "{text}");
    assert!(taken_back > 0, "{text}");
}

#[test]
fn with_no_folder_named_it_goes_on_with_the_one_it_began() {
    let folder = sample(60);
    let run = Run::new();
    let (first, _) =
        start_until(run.command(folder.path()).args(["--slow", "300"]), some_are_finished);
    drop(first);
    let mut again = Command::new(quickstart());
    again.arg("--db").arg(run.work.path().join("jobs.db"));
    again.arg("--report").arg(run.work.path().join("elsewhere.json"));
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read(run.work.path().join("elsewhere.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(report, expected(folder.path()), "and the report goes where this start says");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_report_is_written_without_it() {
    let folder = sample(5);
    let run = Run::new();
    // Permissions do not stop root: what was a file when the folder was read is a folder afterwards.
    let mut command = run.command(folder.path());
    let (mut child, lines) =
        start_until(command.args(["--slow", "1000"]), |line| line.contains("one job each"));
    std::fs::remove_file(folder.path().join("empty")).unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let text: Vec<String> = lines.map(Result::unwrap).collect();
    let text = text.join("\n");
    assert_eq!(child.0.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("fingerprint, try 1: cannot read empty: "), "{text}");
    assert!(text.contains("; next try in 1.0 s"), "{text}");
    assert!(text.contains("fingerprint, try 3: cannot read empty: "), "{text}");
    assert!(text.contains("; that was the last try"), "{text}");
    assert!(text.contains("1 file could not be read"), "{text}");
    let mut report = run.report().unwrap();
    let unread = report.as_object_mut().unwrap().remove("unread");
    assert_eq!(unread, Some(1.into()));
    assert_eq!(report, expected(folder.path()));
    assert_eq!(tally(&text, "fingerprint")[3], 1, "{text}");
}

#[test]
fn a_report_that_cannot_be_written_ends_it_and_the_next_start_writes_it() {
    let folder = sample(5);
    let run = Run::new();
    let report = run.work.path().join("report.json");
    // In the way from the beginning: it says so at once.
    std::fs::create_dir(&report).unwrap();
    let refused = run.command(folder.path()).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("cannot write the report"), "{words}");
    std::fs::remove_dir(&report).unwrap();
    // In the way later: it tries again, gives up, and says what to do.
    let mut command = run.command(folder.path());
    let (mut child, lines) =
        start_until(command.args(["--slow", "1000"]), |line| line.contains("one job each"));
    std::fs::create_dir(&report).unwrap();
    let text = lines.map(Result::unwrap).collect::<Vec<_>>().join("\n");
    assert_eq!(child.0.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("write_report, try 1: cannot write "), "{text}");
    assert!(text.contains("There is no report: cannot write "), "{text}");
    std::fs::remove_dir(&report).unwrap();
    let text = run.finish(folder.path());
    assert!(text.contains("its report was not written: trying again"), "{text}");
    assert_eq!(run.report().unwrap(), expected(folder.path()));
    assert_eq!(tally(&text, "fingerprint")[0], 10, "no file was read twice: {text}");
}

/// Whoever tries the library first waits for this to compile.
#[test]
fn it_compiles_at_most_110_crates() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "quickstart", "--prefix", "none"])
        .args(["-e", "normal,build", "--no-dedupe", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let crates: std::collections::BTreeSet<&str> = text.lines().collect();
    assert!(crates.len() <= 110, "{} crates: {crates:#?}", crates.len());
}

#[test]
fn mistakes_on_the_command_line_are_told() {
    for (arguments, told) in [
        (vec!["--wat"], "--wat is unknown"),
        (vec!["/nowhere/at/all"], "cannot read /nowhere/at/all"),
        (vec!["--slow", "x"], "is no number"),
    ] {
        let output = Command::new(quickstart()).args(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(told), "{arguments:?}: {text}");
    }
}
