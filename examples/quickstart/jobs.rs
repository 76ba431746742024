//! The jobs: what a user of JobKit writes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jobkit::storage::JobQuery;
use jobkit::{BatchId, JobContext, Jobs, jobs, state::StateName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::facts::{self, Facts};
use crate::files::RelativePath;

pub fn all() -> Jobs {
    jobs![fingerprint, write_report, flaky, delayed, pulse]
}

/// What a fingerprint job leaves: the file's path, and what was found, unless the file is gone.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    pub path: RelativePath,
    pub facts: Option<Facts>,
}

/// Reads one file. It blocks its thread, so it runs on the blocking pool.
#[jobkit::job(blocking, queue = "files", timeout = "10m")]
pub fn fingerprint(folder: PathBuf, path: RelativePath, slow_ms: u64) -> io::Result<Fingerprint> {
    std::thread::sleep(Duration::from_millis(slow_ms));
    match facts::read(&folder.join(path.to_path())) {
        Ok(facts) => Ok(Fingerprint { path, facts: Some(facts) }),
        // Deleted since the folder was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Fingerprint { path, facts: None })
        }
        Err(error) => Err(error),
    }
}

/// The numbers of a whole folder.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub files: u64,
    pub bytes: u64,
    pub words: u64,
    /// The SHA-256 of what `sha256sum` prints for all files, sorted by path.
    pub fingerprint: String,
}

/// The batch's continuation: adds up what its members left, and writes the report.
#[jobkit::job]
pub async fn write_report(batch: BatchId, to: PathBuf, ctx: JobContext) -> Result<Report> {
    let storage = ctx.client().storage();
    let mut found = Vec::new();
    let mut query =
        JobQuery { batch: Some(batch), limit: 200, ..JobQuery::new(StateName::Succeeded) };
    loop {
        let page = storage.list(&query).await?;
        for job in page.jobs {
            let result = storage.job(job.id).await?.and_then(|job| job.result);
            let result = result.with_context(|| format!("job {} has no result", job.id))?;
            found.push(serde_json::from_slice::<Fingerprint>(&result)?);
        }
        ctx.progress(found.len() as u64, 0);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let members = storage.batch(batch).await?.context("the batch is gone")?.counts;
    ensure!(
        found.len() as u64 == members.succeeded,
        "read {} of {} results",
        found.len(),
        members.succeeded
    );
    let report = add_up(found);
    // Written beside and renamed, so that nobody ever reads half a report.
    let beside = to.with_extension("part");
    std::fs::write(&beside, serde_json::to_string_pretty(&report)? + "\n")?;
    std::fs::rename(&beside, &to)?;
    Ok(report)
}

fn add_up(mut found: Vec<Fingerprint>) -> Report {
    found.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let mut report = Report::default();
    let mut hash = Sha256::new();
    for Fingerprint { path, facts } in &found {
        let Some(facts) = facts else { continue };
        report.files += 1;
        report.bytes += facts.bytes;
        report.words += facts.words.unwrap_or(0);
        hash.update(sha256sum_line(path.as_bytes(), &facts.sha256));
    }
    report.fingerprint = facts::hex(&hash.finalize());
    report
}

/// The line that `sha256sum` prints, with its escapes for strange names
/// (<https://www.gnu.org/software/coreutils/manual/html_node/md5sum-invocation.html>).
fn sha256sum_line(path: &[u8], sha256: &str) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'\\' => Some(b"\\\\"),
        b'\n' => Some(b"\\n"),
        b'\r' => Some(b"\\r"),
        _ => None,
    };
    let mut line = Vec::with_capacity(path.len() + sha256.len() + 4);
    if path.iter().any(|byte| escape(byte).is_some()) {
        line.push(b'\\');
    }
    line.extend_from_slice(sha256.as_bytes());
    line.extend_from_slice(b"  ");
    for byte in path {
        match escape(byte) {
            Some(escaped) => line.extend_from_slice(escaped),
            None => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

/// Fails twice, then succeeds: retries need no code.
#[jobkit::job]
pub async fn flaky(ctx: JobContext) -> Result<u32> {
    ensure!(ctx.attempt() > 2, "attempt {} fails on purpose", ctx.attempt());
    Ok(ctx.attempt())
}

/// Runs a while after it was enqueued.
#[jobkit::job]
pub async fn delayed(ctx: JobContext) -> Result<()> {
    ctx.info("its time has come");
    Ok(())
}

/// Recurring: looks every few seconds how much there is to do.
#[jobkit::job]
pub async fn pulse(ctx: JobContext) -> Result<u64> {
    let snapshot = ctx.client().storage().snapshot(None).await?;
    let waiting = snapshot.count(StateName::Enqueued);
    println!("  pulse: {waiting} jobs wait, {} run", snapshot.count(StateName::Processing));
    Ok(waiting)
}
