//! What is said when jobs fail: in the log, and to the application's hook.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit_core::filter::{Decision, Ended, OutcomeFilter};
use jobkit_core::server::FailedJob;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::testing::{Fault, TestServer};
use jobkit_core::{
    Failure, Job, JobContext, Jobs, NewJob, RetryPolicy, ServerOptions, permanent, snooze,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Mail {
    fails: u32,
}

impl Job for Mail {
    const KIND: &'static str = "mail";
    type Output = String;
}

/// Keeps what JobKit's servers say of jobs that fail.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "jobkit_core::server::failed"
            && *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() != "job" {
                    write!(self.0, " {}={value:?}", field.name()).unwrap();
                }
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn mails() -> Jobs {
    Jobs::new().handle(|mail: Mail, ctx: JobContext| async move {
        if ctx.attempt() <= mail.fails {
            return Err(Failure::message("SmtpError", "the server is busy"));
        }
        Ok("sent".to_owned())
    })
}

fn options() -> ServerOptions {
    ServerOptions::default().retry(RetryPolicy::fixed(Duration::from_secs(16)).max_attempts(2))
}

/// A server that keeps what its hook was given.
fn watched(jobs: Jobs) -> (TestServer, Arc<Mutex<Vec<FailedJob>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let hook = move |job: &FailedJob| kept.lock().unwrap().push(job.clone());
    (TestServer::new(jobs).options(options()).on_failed(hook), seen)
}

#[tokio::test]
async fn a_failing_job_is_logged_at_each_attempt_and_the_hook_hears_of_the_last() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (mut t, seen) = watched(mails());
    let job = t.client().enqueue(NewJob::new(Mail { fails: 9 })).await.unwrap();
    t.run_until_idle().await;
    let first = lines.take();
    assert_eq!(first.len(), 1, "{first:?}");
    for part in
        ["WARN", "job failed, retrying in 16 s", "kind=mail", "attempt=1", "the server is busy"]
    {
        assert!(first[0].contains(part), "{part} in {first:?}");
    }
    assert!(seen.lock().unwrap().is_empty(), "it is repeated");
    t.advance(Duration::from_secs(60)).await;
    let second = lines.take();
    assert_eq!(second.len(), 1, "{second:?}");
    for part in ["ERROR", "job failed for good", "attempt=2", "SmtpError", "queue=default"] {
        assert!(second[0].contains(part), "{part} in {second:?}");
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].id, seen[0].attempt, seen[0].reason), (job.id(), 2, Reason::OutOfAttempts));
    let error = seen[0].error.as_ref().expect("it has one");
    assert_eq!(*error, t.job(job.id()).await.0.errors.last().unwrap().detail, "as it is stored");
}

#[tokio::test]
async fn what_succeeds_snoozes_or_lost_its_answer_is_said_as_often_as_it_happened() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let jobs = Jobs::new().handle(|mail: Mail, ctx: JobContext| async move {
        match (mail.fails, ctx.run()) {
            (0, _) => Ok(String::new()),
            (1, 1) => Err(Failure::from(snooze(Duration::from_secs(1)))),
            (1, _) => Ok(String::new()),
            _ => Err(Failure::from(permanent("no such mailbox"))),
        }
    });
    let (mut t, seen) = watched(jobs);
    for fails in [0, 1] {
        t.client().enqueue(NewJob::new(Mail { fails })).await.unwrap();
    }
    t.advance(Duration::from_secs(5)).await;
    assert_eq!(lines.take(), Vec::<String>::new());
    t.client().enqueue(NewJob::new(Mail { fails: 2 })).await.unwrap();
    t.fail_next("settle", Fault::AnswerLost);
    t.run_until_idle().await;
    assert_eq!((lines.take().len(), seen.lock().unwrap().len()), (1, 1), "once, though sent twice");
}

#[tokio::test]
async fn the_hook_hears_of_panics_bad_arguments_results_and_vanished_servers() {
    #[derive(Serialize, Deserialize)]
    struct Other {
        size: String,
    }
    impl Job for Other {
        const KIND: &'static str = "mail";
        type Output = ();
    }
    let jobs = Jobs::new().handle(|mail: Mail, _: JobContext| async move {
        assert!(mail.fails != 1, "one is too many");
        let size = if mail.fails == 2 { 100_000 } else { 1 };
        Ok::<_, Failure>("x".repeat(size))
    });
    let (t, seen) = watched(jobs);
    let mut t = t.options(ServerOptions::default().retry(RetryPolicy::none()).crash_limit(1));
    for fails in [1, 2] {
        t.client().enqueue(NewJob::new(Mail { fails })).await.unwrap();
    }
    t.client().enqueue(NewJob::new(Other { size: "large".to_owned() })).await.unwrap();
    t.run_until_idle().await;
    t.client().enqueue(NewJob::new(Mail { fails: 0 })).await.unwrap();
    t.lose_next_worker();
    t.advance(Duration::from_secs(120)).await;
    let seen: Vec<_> = std::mem::take(&mut *seen.lock().unwrap());
    let said: Vec<_> = seen
        .iter()
        .map(|job| (job.reason, job.error.as_ref().map(|error| error.error_type.as_str())))
        .collect();
    let expected = [
        (Reason::OutOfAttempts, Some("panic")),
        (Reason::ResultTooLarge, Some("ResultTooLarge")),
        (Reason::BadArguments, Some("BadArguments")),
        (Reason::CrashLimit, None),
    ];
    assert_eq!(said, expected);
    assert!(seen.iter().all(|job| *job.kind == *"mail" && job.attempt == 1));
}

#[tokio::test]
async fn a_job_that_a_filter_deletes_is_logged_and_no_hook_hears_of_it() {
    struct GiveUp;
    impl OutcomeFilter for GiveUp {
        fn decide(&self, ended: &Ended<'_>, decision: &mut Decision) {
            if ended.failure().is_some() {
                decision.delete();
            }
        }
    }
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (t, seen) = watched(mails());
    let mut t = t.outcome_filter(GiveUp);
    let job = t.client().enqueue(NewJob::new(Mail { fails: 9 })).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.job(job.id()).await.0.record.state(), StateName::Deleted);
    let said = lines.take();
    assert!(said.len() == 1 && said[0].contains("a filter deleted it"), "{said:?}");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_hook_that_panics_stops_neither_the_server_nor_the_others() {
    let (t, seen) = watched(mails());
    let kept = Arc::clone(&seen);
    let mut t = t
        .on_failed(|_| panic!("the pager is down"))
        .on_failed(move |job| kept.lock().unwrap().push(job.clone()));
    for _ in 0..2 {
        t.client().enqueue(NewJob::new(Mail { fails: 9 })).await.unwrap();
    }
    t.advance(Duration::from_secs(60)).await;
    assert_eq!(seen.lock().unwrap().len(), 4, "two hooks, two jobs");
}
