//! Running the examples' binaries, and talking to them.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything takes here, on a busy machine too.
const LONG: Duration = Duration::from_secs(60);

/// An example's binary; Cargo builds it before these tests.
pub fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples").join(name));
    for (variable, _) in std::env::vars() {
        if variable.starts_with("JOBKIT_") || variable == "RUST_LOG" {
            command.env_remove(variable);
        }
    }
    command
}

/// Runs it to its end, which must be a good one; what it said.
pub fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A program that runs; ended with this value, if it has not ended before.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    told: String,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, told: String::new() }
    }

    /// Waits for a line with this in it.
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(self.told, "{line}").unwrap();
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in time in:\n{}", self.told),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without {text:?}:\n{}", self.told)
                }
            }
        }
    }

    /// The address in a line such as `see http://127.0.0.1:4711/`.
    pub fn address(&mut self) -> String {
        let line = self.line_with("http://");
        let (_, address) = line.split_once("http://").unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    /// Asks it to stop, as a process manager does.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Waits for its end, which must be a good one; all that it said.
    pub fn ends(mut self) -> String {
        let deadline = Instant::now() + LONG;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("it does not end:\n{}", self.told),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        for line in self.lines.iter() {
            writeln!(self.told, "{line}").unwrap();
        }
        assert!(status.success(), "{status}:\n{}", self.told);
        std::mem::take(&mut self.told)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an HTTP server answered.
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

pub fn get(address: &str, path: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1\r\n"), "")
}

pub fn post_form(address: &str, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n",
        form.len()
    );
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    request(address, &head, form)
}

fn request(address: &str, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "{head}Host: {address}\r\nConnection: close\r\n\r\n{body}").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let location = head.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
    Answer { status, location, body: body.to_owned() }
}

/// Asks again until it is so.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        match ask() {
            Some(answer) => return answer,
            None if Instant::now() > deadline => panic!("not in time: {what}"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
