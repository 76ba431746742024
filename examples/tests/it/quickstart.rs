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

/// The example's binary; Cargo builds it before these tests.
fn quickstart() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/quickstart")
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

#[test]
fn killed_half_way_it_goes_on_with_the_rest() {
    let folder = sample(100);
    let run = Run::new();
    let mut command = run.command(folder.path());
    command.args(["--slow", "300"]).stdout(Stdio::piped());
    let mut first = Killed(command.spawn().unwrap());
    // Killed once it has told of finished files, of which there are more to come.
    let mut told = BufReader::new(first.0.stdout.take().unwrap()).lines();
    let some_are_finished = |line: &str| {
        let finished = line.trim().split(" of ").next().and_then(|n| n.parse::<u32>().ok());
        finished.is_some_and(|finished| finished > 0)
    };
    assert!(told.any(|line| some_are_finished(&line.unwrap())), "it ended before it told");
    assert!(first.0.try_wait().unwrap().is_none(), "it still runs");
    drop(first);
    assert!(run.report().is_none());
    let began = Instant::now();
    let text = run.finish(folder.path());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(text.contains("they are not read again"), "{text}");
    assert_eq!(run.report().unwrap(), expected(folder.path()));
    // Finished work was not done again: each file succeeded once.
    let line = text.lines().find(|line| line.starts_with("fingerprint  ")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().collect();
    assert_eq!(numbers[1], "105", "{line}");
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
