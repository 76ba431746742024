//! What travels with a job: captured where it is enqueued, restored around its run, inherited by its
//! children. W3C trace, locale, tenant, keys of one's own; at most 4 KiB a job.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::model::bounds::METADATA_BYTES;
use crate::model::ids::JobId;
use crate::model::record::{NewRecord, text_size};

/// The key of the [W3C trace context](https://www.w3.org/TR/trace-context/#traceparent-header).
pub const TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    static SCOPE: BTreeMap<String, String>;
    static RUNNING: Arc<dyn RunningJob>;
}

/// The job that a task runs, as far as jobs that it enqueues ask for it.
pub(crate) trait RunningJob: Any + Send + Sync {
    fn id(&self) -> JobId;

    /// What was captured when it was enqueued.
    fn captured(&self) -> Option<&BTreeMap<String, String>>;

    /// The trace context of this run.
    fn trace_parent(&self) -> String;
}

/// Runs a future as a job's.
pub(crate) async fn running<F: Future>(job: Arc<dyn RunningJob>, future: F) -> F::Output {
    RUNNING.scope(job, future).await
}

/// The job that the present task runs.
pub(crate) fn running_job() -> Option<Arc<dyn RunningJob>> {
    RUNNING.try_with(Clone::clone).ok()
}

/// Runs `future` so that every job it enqueues carries these values, beside those of the scope or job
/// around it; inner ones win. Tasks and threads that it spawns are outside: give them [`current`].
///
/// # Example: a web request's tenant reaches the handler
/// ```
/// use jobkit::{Client, Error, MemoryStorage, capture};
/// # use jobkit::{Job, NewJob};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Report {}
/// # impl Job for Report { const KIND: &'static str = "report"; type Output = (); }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let client = Client::new(MemoryStorage::new());
/// let request = async { client.enqueue(NewJob::new(Report {})).await };
/// let job = capture::with([("tenant", "acme"), ("locale", "de")], request).await?;
///
/// let stored = client.job(job.id()).await?;
/// let extras = stored.and_then(|job| job.record.extras);
/// assert_eq!(extras.map(|extras| extras.context["tenant"].clone()), Some("acme".into()));
/// # Ok(())
/// # }
/// ```
pub async fn with<K: Into<String>, V: Into<String>, F: Future>(
    values: impl IntoIterator<Item = (K, V)>,
    future: F,
) -> F::Output {
    let mut all = SCOPE.try_with(Clone::clone).unwrap_or_default();
    all.extend(values.into_iter().map(|(key, value)| (key.into(), value.into())));
    SCOPE.scope(all, future).await
}

/// The same for code that does not wait, such as a transaction on another thread. A future that is made in it
/// and awaited elsewhere is outside.
pub fn with_sync<K: Into<String>, V: Into<String>, T>(
    values: impl IntoIterator<Item = (K, V)>,
    run: impl FnOnce() -> T,
) -> T {
    let mut all = SCOPE.try_with(Clone::clone).unwrap_or_default();
    all.extend(values.into_iter().map(|(key, value)| (key.into(), value.into())));
    SCOPE.sync_scope(all, run)
}

/// What is captured here, to be taken to another task or thread: the scope's values, and the job that runs.
///
/// # Example: to the blocking pool
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use jobkit::capture;
///
/// let request = async {
///     let captured = capture::current();
///     let write = move || captured.run(|| capture::get("tenant"));
///     tokio::task::spawn_blocking(write).await
/// };
/// let tenant = capture::with([("tenant", "acme")], request).await;
/// assert_eq!(tenant.ok().flatten().as_deref(), Some("acme"));
/// # }
/// ```
pub fn current() -> Captured {
    let values = SCOPE.try_with(Clone::clone).unwrap_or_default();
    Captured { values, job: running_job() }
}

/// What was captured in one place, to be restored in another; see [`current`].
#[derive(Clone, Default)]
#[must_use = "it is restored by `run` or `scope`"]
pub struct Captured {
    values: BTreeMap<String, String>,
    job: Option<Arc<dyn RunningJob>>,
}

impl Captured {
    /// A value, as [`get`] answers it where it was captured.
    pub fn get(&self, key: &str) -> Option<&str> {
        let of_job = || self.job.as_ref()?.captured()?.get(key);
        self.values.get(key).or_else(of_job).map(String::as_str)
    }

    /// Runs code with it that does not wait: on the blocking pool, or on a thread of one's own.
    pub fn run<T>(self, run: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(self.values, || match self.job {
            Some(job) => RUNNING.sync_scope(job, run),
            None => run(),
        })
    }

    /// Runs a future with it, such as that of a spawned task.
    ///
    /// # Cancel safety
    /// That of the future.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        match self.job {
            Some(job) => SCOPE.scope(self.values, running(job, future)).await,
            None => SCOPE.scope(self.values, future).await,
        }
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values are not for logs.
        let job = self.job.as_ref().map(|job| job.id());
        f.debug_struct("Captured").field("keys", &self.values.keys()).field("job", &job).finish()
    }
}

/// A value of the scope around, else of the job that the present task runs.
pub fn get(key: &str) -> Option<String> {
    let of_scope = SCOPE.try_with(|scope| scope.get(key).cloned()).ok().flatten();
    of_scope.or_else(|| running_job()?.captured()?.get(key).cloned())
}

/// Adds what is captured here to a job: its own values first, then the scope's, then its parent's as far
/// as there is room.
pub(crate) fn into(record: &mut NewRecord) {
    let mut add = |values: &BTreeMap<String, String>, all: bool| {
        let mine = &mut record.extras_mut().context;
        let mut room = METADATA_BYTES.saturating_sub(text_size(mine));
        for (key, value) in values {
            let size = key.len() + value.len();
            // What nobody asked for must not be the reason why a job is refused.
            if !mine.contains_key(key) && (all || size <= room) {
                room = room.saturating_sub(size);
                mine.insert(key.clone(), value.clone());
            }
        }
    };
    let _ = SCOPE.try_with(|scope| {
        if !scope.is_empty() {
            add(scope, true);
        }
    });
    if let Some(parent) = running_job() {
        let own_span = BTreeMap::from([(TRACEPARENT.to_owned(), parent.trace_parent())]);
        match parent.captured().filter(|context| !context.is_empty()) {
            Some(context) => {
                let others = context.iter().filter(|(key, _)| *key != TRACEPARENT);
                add(&others.map(|(key, value)| (key.clone(), value.clone())).collect(), false);
                add(&own_span, false);
            }
            None => add(&own_span, false),
        }
    }
}

/// The trace context of a run: of the captured trace, or of one that is named after the job.
pub(crate) fn trace_parent(captured: Option<&str>, job: [u8; 16], fence: u64) -> String {
    let mut own = [0; 8];
    own.copy_from_slice(&job[8..]);
    // Every attempt is a span of its own; zero is not allowed.
    let span = (u64::from_be_bytes(own) ^ fence.rotate_right(16)).max(1);
    match captured.and_then(parse) {
        Some((trace, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
        None => format!("00-{:032x}-{span:016x}-01", u128::from_be_bytes(job)),
    }
}

/// Trace id and flags of a `traceparent`, if it is one.
fn parse(text: &str) -> Option<(&str, &str)> {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && hex(span, 16)
        && hex(flags, 2);
    valid.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_span_of_the_captured_trace() {
        let job = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
        let captured = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let first = trace_parent(Some(captured), job, 1);
        assert!(first.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{first}");
        assert!(first.ends_with("-00"), "not sampled stays so: {first}");
        assert_ne!(first, trace_parent(Some(captured), job, 2), "another attempt, another span");
        assert!(parse(&first).is_some());
    }

    #[test]
    fn without_a_valid_trace_the_job_names_one() {
        let job = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
        for bad in [
            None,
            Some(""),
            Some("00-0-0-0"),
            Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ] {
            let own = trace_parent(bad, job, 1);
            assert!(own.starts_with("00-0123456789abcdef0123456789abcdef-"), "{own}");
            assert_eq!(own.len(), 55);
        }
    }
}
