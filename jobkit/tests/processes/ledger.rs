//! A file to which every handler appends a line when it starts and when it ends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use jobkit::testing::{Clock, SystemClock};
use jobkit::{JobContext, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Start,
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) what: What,
    pub(crate) job: String,
    pub(crate) fence: u64,
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// Whether the token was cancelled.
    pub(crate) cancelled: bool,
    pub(crate) at: Timestamp,
}

/// Where handlers write.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// One write of one short line to a file opened for appending is atomic.
    pub(crate) fn write(&self, what: What, name: &str, ctx: &JobContext) {
        let what = if what == What::Start { "start" } else { "end" };
        let line = format!(
            "{what} {} {} {} {} {} {name}\n",
            ctx.id(),
            ctx.fence(),
            std::process::id(),
            u8::from(ctx.is_cancelled()),
            SystemClock.now().as_micros(),
        );
        let mut file = OpenOptions::new().append(true).create(true).open(&self.0).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }

    /// The lines so far, in the order in which they were appended.
    pub(crate) fn read(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        // A line may be read while it is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        whole
            .lines()
            .map(|line| {
                let parts: Vec<_> = line.splitn(7, ' ').collect();
                Line {
                    what: if parts[0] == "start" { What::Start } else { What::End },
                    job: parts[1].to_owned(),
                    fence: parts[2].parse().unwrap(),
                    pid: parts[3].parse().unwrap(),
                    cancelled: parts[4] == "1",
                    at: Timestamp::from_micros(parts[5].parse().unwrap()),
                    name: parts[6].to_owned(),
                }
            })
            .collect()
    }

    pub(crate) fn ends(&self) -> usize {
        self.read().iter().filter(|line| line.what == What::End).count()
    }
}

/// Starts and ends by job, in order.
pub(crate) fn by_job(lines: &[Line]) -> BTreeMap<String, Vec<Line>> {
    let mut jobs: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for line in lines {
        jobs.entry(line.job.clone()).or_default().push(line.clone());
    }
    jobs
}
