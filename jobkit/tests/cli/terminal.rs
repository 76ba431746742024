//! What only a person at a terminal gets: `top`, questions, colours.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jobkit::state::StateName;
use jobkit::storage::Call;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::json;

use crate::world::{World, full, job};

/// The program on a terminal of its own; killed when it is dropped.
struct Terminal {
    program: Child,
    keys: File,
    /// Everything that was shown so far.
    shown: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn run(world: &World, arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let screen = openpt(flags).expect("a terminal");
        grantpt(&screen).expect("is granted");
        unlockpt(&screen).expect("is unlocked");
        let side = || Stdio::from(ioctl_tiocgptpeer(&screen, flags).expect("its other side"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobkit"));
        command.args(arguments).env("JOBKIT_URL", &world.url).env("COLUMNS", "120");
        command.env_remove("NO_COLOR").env("TERM", "xterm").env("USER", "ann");
        let program = command.stdin(side()).stdout(side()).stderr(side()).spawn();
        let program = program.expect("the program starts");
        // With the command its sides of the terminal are closed, so that reading ends with the program.
        drop(command);
        let mut screen = File::from(screen);
        let keys = screen.try_clone().expect("is shared");
        let shown = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let shown = Arc::clone(&shown);
            move || {
                let mut bytes = [0; 4096];
                // An error tells that nobody writes any more.
                while let Ok(count) = screen.read(&mut bytes)
                    && count > 0
                {
                    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    shown.lock().expect("never panics").push_str(&text);
                }
            }
        });
        Self { program, keys, shown, reader: Some(reader) }
    }

    fn shown(&self) -> String {
        self.shown.lock().expect("never panics").clone()
    }

    #[track_caller]
    fn shows(&self, what: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !what(&self.shown()) {
            assert!(Instant::now() < deadline, "is not shown: {}", self.shown());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("is typed");
    }

    /// The exit code, and everything that was shown.
    fn ends(mut self) -> (Option<i32>, String) {
        let code = self.program.wait().expect("ends").code();
        self.reader.take().expect("reads").join().expect("reads to the end");
        (code, self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Where each drawing begins.
const AGAIN: &str = "\x1b[H\x1b[2J";

/// Without colours and carriage returns.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain.replace('\r', "")
}

#[tokio::test(flavor = "multi_thread")]
async fn top_draws_what_status_tells_again_and_again_until_q() {
    let (world, _) = full().await;
    let mut terminal = Terminal::run(&world, &["top", "--interval", "100ms"]);
    terminal.shows(|screen| screen.matches(AGAIN).count() > 2);
    world.enqueue(job("mail", &json!({})).queue("freshly-named")).await;
    terminal.shows(|screen| screen.contains("freshly-named"));
    terminal.types("nothing\nq\n");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0));
    assert!(screen.starts_with("\x1b[?1049h\x1b[?25l"), "another screen, without a cursor");
    assert!(screen.ends_with("\x1b[?25h\x1b[?1049l"), "and back");
    let drawings: Vec<&str> = screen.split(AGAIN).collect();
    let last = plain(drawings[drawings.len() - 1]);
    let status = world.run(&["status"]).expect(0).out;
    for queue in ["default", "mail", "freshly-named"] {
        let line = status.lines().find(|line| line.starts_with(queue)).expect(queue);
        let words: Vec<_> = line.split_whitespace().take(3).collect();
        let drawn =
            last.lines().any(|line| line.split_whitespace().take(3).collect::<Vec<_>>() == words);
        assert!(drawn, "{words:?} is not in\n{last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sits_at_a_terminal_is_asked() {
    let (world, _) = full().await;
    let failed = async || {
        world
            .client
            .storage()
            .snapshot(&Call::default())
            .await
            .expect("is read")
            .count(StateName::Failed)
    };
    let before = failed().await;
    assert!(before > 0);
    for (answer, code, left) in [("n", 4, before), ("", 4, before), ("y", 0, 0)] {
        let mut terminal = Terminal::run(&world, &["delete", "--where", "state:failed"]);
        terminal.shows(|screen| screen.contains("[y/N]"));
        terminal.types(&format!("{answer}\n"));
        let (ended, screen) = terminal.ends();
        assert_eq!(ended, Some(code), "{screen}");
        assert_eq!(failed().await, left, "after {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_colours_and_the_same_words() {
    let (world, _) = full().await;
    let (code, screen) = Terminal::run(&world, &["limits"]).ends();
    assert_eq!(code, Some(0));
    assert!(screen.contains("\x1b["), "{screen:?}");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let without = world.run(&["limits"]).expect(0).out;
    assert_eq!(words(&plain(&screen)), words(&without));
}
