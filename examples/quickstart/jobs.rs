//! The jobs: what a user of JobKit writes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use jobkit::storage::{Call, JobQuery};
use jobkit::{BatchId, Data, JobContext, Jobs, RetryPolicy, jobs, state::StateName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::facts::{self, Facts};
use crate::files::RelativePath;
use crate::progress::Progress;

/// Where the report goes: of this start of the program, not of the one that stored the jobs.
pub struct ReportPlace(pub PathBuf);

/// By default a job is tried eleven times, over half an hour. Here somebody watches.
fn few_attempts() -> RetryPolicy {
    RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(3)
}

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
#[jobkit::job(blocking, queue = "files", timeout = "10m", retry = few_attempts())]
pub fn fingerprint(folder: PathBuf, path: RelativePath, slow_ms: u64) -> Result<Fingerprint> {
    std::thread::sleep(Duration::from_millis(slow_ms));
    let file = path.to_path();
    match facts::read(&folder.join(&file)) {
        Ok(facts) => Ok(Fingerprint { path, facts: Some(facts) }),
        // Deleted since the folder was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Fingerprint { path, facts: None })
        }
        Err(error) => Err(anyhow!("cannot read {}: {error}", file.display())),
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
    /// How many files could not be read, and are not in the other numbers.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unread: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(unread: &u64) -> bool {
    *unread == 0
}

/// The batch's continuation: adds up what its members left, and writes the report.
///
/// `folder` is for a later start, which goes on with the same folder only.
#[jobkit::job(retry = few_attempts())]
pub async fn write_report(
    batch: BatchId,
    folder: PathBuf,
    to: Data<ReportPlace>,
    ctx: JobContext,
) -> Result<Report> {
    let (to, storage) = (&to.0, ctx.client().storage());
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
    let mut report = add_up(found);
    report.unread = members.total - members.succeeded;
    ctx.info(format!("{} files of {}", report.files, folder.display()));
    // Written beside and renamed, so that nobody ever reads half a report.
    let beside = to.with_extension("part");
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, to))
        .map_err(|error| anyhow!("cannot write {}: {error}", to.display()))?;
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
pub async fn pulse(ctx: JobContext, progress: Data<Progress>) -> Result<u64> {
    let snapshot = ctx.client().storage().snapshot(&Call::default()).await?;
    let waiting = snapshot.count(StateName::Enqueued);
    let running = snapshot.count(StateName::Processing);
    let later = snapshot.count(StateName::Scheduled);
    // The pulse itself is one of those that run.
    progress.say(&format!(
        "  pulse: {} ready, {} running, {later} later",
        crate::progress::count(waiting, "job"),
        running.saturating_sub(1),
    ));
    Ok(waiting)
}
