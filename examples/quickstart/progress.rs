//! What is seen while it runs: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jobkit::filter::{Decision, Ended, OutcomeFilter};
use jobkit::state::Ending;

/// How often a line is printed where there is no bar.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

pub struct Progress {
    bar: Option<ProgressBar>,
    began: Mutex<Option<Began>>,
}

/// Where this process began.
struct Began {
    at: Instant,
    finished: u64,
    line: Option<(Instant, u64)>,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "  {bar:30} {pos} of {len} files, {per_sec}, {eta} left",
            );
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, began: Mutex::new(None) }
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// So many files are finished, those of an earlier process included.
    pub fn files(&self, finished: u64, total: u64) {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let first = began.is_none();
        let began = began.get_or_insert_with(|| Began { at: Instant::now(), finished, line: None });
        if let Some(bar) = &self.bar {
            if first {
                bar.set_length(total);
                // The rate is of this process.
                bar.set_position(finished);
                bar.reset_eta();
            }
            bar.set_position(finished);
            return;
        }
        let due = match began.line {
            None => true,
            Some((_, printed)) if printed == finished => false,
            Some((at, _)) => at.elapsed() >= BETWEEN_LINES || finished == total,
        };
        if due {
            began.line = Some((Instant::now(), finished));
            let seconds = began.at.elapsed().as_secs_f64();
            println!("{}", line(finished, total, finished - began.finished, seconds));
        }
    }

    /// The bar stays as it is, and what follows comes below it.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn line(finished: u64, total: u64, here: u64, seconds: f64) -> String {
    let mut line = format!("  {finished} of {}", count(total, "file"));
    if here > 0 && seconds > 0.0 {
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let (rate, open) = (here as f64 / seconds, (total - finished) as f64);
        line += &format!(", {rate:.0} a second");
        if open > 0.0 {
            line += &format!(", {:.0} s left", (open / rate).ceil());
        }
    }
    line
}

/// `1 file`, `2 files`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Prints each failure, and what follows from it.
pub struct Failures(pub Arc<Progress>);

impl OutcomeFilter for Failures {
    fn decide(&self, ended: &Ended<'_>, next: &mut Decision) {
        let Some(failure) = ended.failure() else { return };
        let follows = match next.ending() {
            Ending::Retry { delay } | Ending::Snoozed { delay } => {
                format!("next try in {:.1} s", delay.as_secs_f64())
            }
            Ending::Failed(_) => "that was the last try".to_owned(),
            other => format!("{other:?}"),
        };
        let (kind, attempt) = (ended.context().kind(), ended.failures());
        self.0.say(&format!("  {kind}, try {attempt}: {}; {follows}", failure.text()));
    }
}

#[cfg(test)]
mod tests {
    use super::{count, line};

    #[test]
    fn numbers_have_their_plurals_and_lines_their_rate() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(line(0, 1, 0, 0.0), "  0 of 1 file");
        assert_eq!(line(50, 100, 20, 2.0), "  50 of 100 files, 10 a second, 5 s left");
        assert_eq!(line(100, 100, 20, 2.0), "  100 of 100 files, 10 a second");
    }
}
