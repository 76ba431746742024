//! What surrounds jobs: captured context, logs through `tracing`, the ends of jobs.

use std::time::Duration;

use jobkit_core::filter::{Next, PerformFilter, Performed};
use jobkit_core::recurring::Pause;
use jobkit_core::state::StateName;
use jobkit_core::testing::TestServer;
use jobkit_core::{
    Client, Failure, Job, JobContext, JobId, Jobs, MemoryStorage, NewJob, Server, capture,
    job_by_name, permanent,
};
use serde::{Deserialize, Serialize};

use crate::support::{eventually, quick};

macro_rules! job {
    ($name:ident) => {
        #[derive(Serialize, Deserialize)]
        struct $name {}
        impl Job for $name {
            const KIND: &'static str = stringify!($name);
            type Output = String;
        }
    };
}

job!(Parent);
job!(Child);

/// Tells what it was given, and enqueues a child.
fn family() -> Jobs {
    Jobs::new()
        .handle(|_: Parent, ctx: JobContext| async move {
            ctx.client().enqueue(NewJob::new(Child {}).capture("locale", "fr")).await?;
            Ok::<_, Failure>(format!("{:?} {}", ctx.captured("tenant"), ctx.trace_parent()))
        })
        .handle(|_: Child, ctx: JobContext| async move {
            let deep_inside = (capture::get("tenant"), capture::get("locale"));
            Ok::<_, Failure>(format!("{deep_inside:?} {}", ctx.trace_parent()))
        })
}

async fn outputs(t: &TestServer) -> Vec<String> {
    let text = |job: &jobkit_core::testing::TestedJob| {
        serde_json::from_slice(job.0.result.as_deref().expect("succeeded")).unwrap()
    };
    t.jobs().await.iter().map(text).collect()
}

#[tokio::test]
async fn what_is_captured_reaches_the_handler_and_its_children() {
    let mut t = TestServer::new(family());
    let client = t.client();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let inner = capture::with([("locale", "de")], async {
        client.enqueue(NewJob::new(Parent {}).capture("tenant", "initech")).await
    });
    let outer = [("tenant", "acme"), ("locale", "en"), ("traceparent", trace)];
    capture::with(outer, inner).await.unwrap();
    t.run_until_idle().await;
    let jobs = t.jobs().await;
    let context = &jobs[0].0.record.extras.as_deref().unwrap().context;
    assert_eq!(context["tenant"], "initech", "the job's own wins");
    assert_eq!(context["locale"], "de", "the inner scope wins");
    let told = outputs(&t).await;
    assert!(
        told[0].starts_with("Some(\"initech\") 00-4bf92f3577b34da6a3ce929d0e0e4736-"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("(Some(\"initech\"), Some(\"fr\")) 00-4bf92f3577b34da6"),
        "{told:?}"
    );
    // The child hangs below the run of its parent, and has a span of its own.
    let below = &jobs[1].0.record.extras.as_deref().unwrap().context["traceparent"];
    assert!(told[0].ends_with(below.as_str()), "{told:?} {below}");
    assert!(!told[1].ends_with(below.as_str()), "{told:?} {below}");
}

#[tokio::test]
async fn children_belong_to_the_trace_of_a_job_without_one() {
    let mut t = TestServer::new(family());
    let parent = t.client().enqueue(NewJob::new(Parent {})).await.unwrap();
    t.run_until_idle().await;
    let jobs = t.jobs().await;
    assert!(jobs[0].0.record.extras.is_none(), "nothing is stored for it");
    let trace: String = parent.id().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    for told in outputs(&t).await {
        assert!(told.contains(&format!(" 00-{trace}-")), "{told}");
    }
}

/// What a job that is made here would carry: its tenant, and the job that it came from by its trace.
fn made_here() -> (Option<String>, Option<JobId>) {
    (capture::get("tenant"), JobContext::current().map(|ctx| ctx.id()))
}

#[tokio::test]
async fn what_is_captured_is_taken_to_other_tasks_and_threads() {
    let jobs = Jobs::new().handle(|_: Parent, ctx: JobContext| async move {
        let here = made_here();
        let expected = (Some("acme".to_owned()), Some(ctx.id()));
        assert_eq!(here, expected);
        let captured = capture::current();
        assert_eq!(captured.get("tenant"), Some("acme"));
        assert!(!format!("{captured:?}").contains("acme"), "values are not for logs");
        let task = tokio::spawn(captured.clone().scope(async { made_here() }));
        let client = ctx.client().clone();
        let pool = tokio::task::spawn_blocking(move || {
            captured.run(|| {
                let scoped = capture::with_sync([("tenant", "initech")], made_here);
                let handle = tokio::runtime::Handle::current();
                handle.block_on(client.enqueue(NewJob::new(Child {})))?;
                Ok::<_, Failure>((made_here(), scoped))
            })
        });
        assert_eq!(task.await.unwrap(), expected);
        let (there, scoped) = pool.await.unwrap()?;
        assert_eq!(there, expected);
        assert_eq!(scoped, (Some("initech".to_owned()), Some(ctx.id())), "the inner one wins");
        let lost = tokio::spawn(async { made_here() }).await.unwrap();
        assert_eq!(lost, (None, None));
        Ok::<_, Failure>(String::new())
    });
    let jobs = jobs.merge(Jobs::new().handle(|_: Child, ctx: JobContext| async move {
        Ok::<_, Failure>(ctx.captured("tenant").unwrap_or_default().to_owned())
    }));
    let mut t = TestServer::new(jobs);
    let client = t.client();
    let job = NewJob::new(Parent {});
    capture::with([("tenant", "acme")], client.enqueue(job)).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(outputs(&t).await, ["", "acme"]);
}

#[tokio::test]
async fn a_scope_of_a_filter_reaches_a_handler_that_blocks() {
    struct Scope;
    #[async_trait::async_trait]
    impl PerformFilter for Scope {
        async fn perform(&self, _: &JobContext, next: Next<'_>) -> Performed {
            capture::with([("tenant", "acme")], next.run()).await
        }
    }
    let jobs = Jobs::new().handle(|_: Parent, _: JobContext| async {
        let tenant = jobkit_core::__private::run_blocking(|| capture::get("tenant")).await;
        Ok::<_, Failure>(tenant.unwrap_or_default())
    });
    let mut t = TestServer::new(jobs).perform_filter(Scope);
    t.client().enqueue(NewJob::new(Parent {})).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(outputs(&t).await, ["acme"]);
}

#[tokio::test]
async fn too_much_context_is_refused() {
    let t = TestServer::new(family());
    let job = NewJob::new(Parent {}).capture("all", "x".repeat(5_000));
    let error = t.client().enqueue(job).await.expect_err("too much");
    assert!(error.to_string().contains("context"), "{error}");
    assert!(t.jobs().await.is_empty());
}

#[cfg(feature = "log-layer")]
#[tokio::test]
async fn what_a_handler_logs_is_in_the_log_of_its_job() {
    use jobkit_core::storage::{JobLog, LogLevel};
    use tracing_subscriber::layer::SubscriberExt;

    let subscriber = tracing_subscriber::registry().with(jobkit_core::JobLogLayer::new());
    let _guard = tracing::subscriber::set_default(subscriber);
    let jobs = Jobs::new().handle(|_: Parent, _: JobContext| async move {
        tracing::info!(order = 17, by = "ann", "charged");
        tracing::warn!("slow");
        tracing::debug!("too much detail");
        tracing::info!(target: "jobkit_core::x", "its own");
        tracing::info!(target: "jobkit_in_our_shop::x", "begins like its own");
        Ok::<_, Failure>(String::new())
    });
    let mut t = TestServer::new(jobs);
    tracing::info!("outside of any job");
    let job = t.client().enqueue(NewJob::new(Parent {})).await.unwrap();
    t.run_until_idle().await;
    let log = t.storage().read_log(job.id(), None, 0, 10).await.unwrap();
    let lines: Vec<_> =
        log.lines.iter().map(|(_, line)| (line.level, line.text.as_str())).collect();
    let expected = [
        (LogLevel::Info, "charged order=17 by=ann"),
        (LogLevel::Warn, "slow"),
        (LogLevel::Info, "begins like its own"),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_sees_each_end_once() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let jobs = Jobs::new()
        .handle(|_: Parent, _: JobContext| async { Ok::<_, Failure>(String::new()) })
        .handle(|_: Child, _: JobContext| async { Err(permanent("no")) });
    let before = client.enqueue(NewJob::new(Parent {})).await.unwrap();
    let server = Server::builder(storage).jobs(jobs).options(quick()).build().unwrap();
    let server = server.start().await.unwrap();
    before.wait(Duration::from_secs(10)).await.unwrap();

    let mut ends = client.subscribe().await.unwrap();
    let mut failures = client.subscribe().await.unwrap().kind("Child").unwrap();
    let mut expected = Vec::new();
    for n in 0..40 {
        expected.push(match n % 4 {
            0 => client.enqueue(NewJob::new(Child {})).await.unwrap().id(),
            _ => client.enqueue(NewJob::new(Parent {})).await.unwrap().id(),
        });
    }
    let again = expected[1];
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let end = tokio::time::timeout(Duration::from_secs(20), ends.next()).await;
        seen.push(end.expect("an end in time").unwrap());
    }
    let failed = seen.iter().filter(|job| job.state() == StateName::Failed).count();
    assert_eq!(failed, 10);
    let mut ids: Vec<_> = seen.iter().map(|job| job.id).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected, "each once, and none of before");

    client.requeue(again).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), ends.next()).await;
    let end = end.expect("in time").unwrap();
    assert_eq!((end.id, end.head.run), (again, 1), "it ended again");
    for _ in 0..10 {
        let end = tokio::time::timeout(Duration::from_secs(20), failures.next()).await;
        assert_eq!(end.expect("in time").unwrap().kind, *"Child");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_nobody_serves_lowers_health_until_it_is_gone() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let jobs =
        Jobs::new().handle(|_: Parent, _: JobContext| async { Ok::<_, Failure>(String::new()) });
    let options = quick().unserved_after(Duration::from_millis(300));
    let server = Server::builder(storage).jobs(jobs).options(options).build().unwrap();
    let server = server.start().await.unwrap();
    client.enqueue(NewJob::new(Parent {})).await.unwrap();
    let orphan = client.enqueue(NewJob::new(Child {}).queue("mail")).await.unwrap();
    let problems = || server.health().problems;
    eventually("health names it", async || !problems().is_empty()).await;
    let problem = &problems()[0];
    assert_eq!(problem.part, "unserved");
    assert_eq!(problem.message, "jobs wait that no live server serves: `Child` in queue `mail`");
    client.delete(orphan.id()).await.unwrap();
    eventually("health is well again", async || problems().is_empty()).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pause_holds_until_it_is_lifted() {
    let mut t = TestServer::new(family());
    let client = t.client();
    for of_queue in [true, false] {
        let pause = || Pause::new("ann", "provider is down");
        match of_queue {
            true => client.pause_queue("default", pause()).await.unwrap(),
            false => client.pause_kind("Child", pause()).await.unwrap(),
        }
        let job = client.enqueue(NewJob::new(Child {})).await.unwrap();
        t.run_until_idle().await;
        assert_eq!(client.state(job.id()).await.unwrap(), Some(StateName::Enqueued));
        match of_queue {
            true => client.resume_queue("default").await.unwrap(),
            false => client.resume_kind("Child").await.unwrap(),
        }
        t.run_until_idle().await;
        assert_eq!(client.state(job.id()).await.unwrap(), Some(StateName::Succeeded));
    }
}

#[tokio::test]
async fn jobs_known_by_name_only_belong_to_flows_too() {
    let mut t = TestServer::new(family());
    let none = serde_json::Map::new();
    let first = job_by_name("Child", &none).unwrap();
    let second = NewJob::new(Child {}).after(&first);
    let third = job_by_name("Child", &none).unwrap().after(&second);
    let (_, second, third) = t.client().enqueue((first, second, third)).await.unwrap();
    t.run_until_idle().await;
    let soon = Duration::from_secs(1);
    let typed: String = second.wait(soon).await.unwrap();
    let untyped: serde_json::Value = third.wait(soon).await.unwrap();
    assert!(untyped.is_string() && !typed.is_empty(), "{untyped}");
}

#[tokio::test]
async fn what_a_child_inherits_never_makes_it_too_large() {
    let mut t = TestServer::new(family());
    let job = NewJob::new(Parent {}).capture("large", "x".repeat(4_050)).capture("tenant", "acme");
    t.client().enqueue(job).await.unwrap();
    t.run_until_idle().await;
    let jobs = t.jobs().await;
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|job| job.0.record.state() == StateName::Succeeded), "{jobs:?}");
}

#[tokio::test]
async fn a_schedule_saved_from_another_scope_is_the_same() {
    let t = TestServer::new(family());
    let client = t.client();
    let daily = || jobkit_core::Recurring::cron("daily", "0 2 * * *").job(NewJob::new(Child {}));
    client.save_recurring(daily()).await.unwrap();
    let before = client.recurring("daily").await.unwrap().unwrap();
    capture::with([("request", "17")], client.save_recurring(daily())).await.unwrap();
    let after = client.recurring("daily").await.unwrap().unwrap();
    assert_eq!((before.etag, before.next), (after.etag, after.next));
    assert!(after.spec.job.extras.context.is_empty());
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_count_what_happens() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let jobs = Jobs::new().handle(|_: Parent, ctx: JobContext| async move {
        match ctx.attempt() {
            1 => Err(Failure::message("Once", "more")),
            _ => Ok::<_, Failure>(String::new()),
        }
    });
    let mut t = TestServer::new(jobs);
    t.client().enqueue(NewJob::new(Parent {})).await.unwrap();
    t.advance(Duration::from_secs(3600)).await;
    let mut seen: Vec<String> = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| label.value()).collect();
        seen.push(match value {
            DebugValue::Counter(count) => format!("{} {labels:?} {count}", key.key().name()),
            DebugValue::Histogram(values) => {
                format!("{} {labels:?} {}", key.key().name(), values.len())
            }
            DebugValue::Gauge(value) => format!("{} {labels:?} {value}", key.key().name()),
        });
    }
    seen.sort();
    let expected = [
        r#"jobkit_attempt_seconds ["Parent", "default"] 2"#,
        r#"jobkit_attempts_total ["Parent", "default", "retried"] 1"#,
        r#"jobkit_attempts_total ["Parent", "default", "succeeded"] 1"#,
        r#"jobkit_jobs_submitted_total ["Parent"] 1"#,
        "jobkit_submit_seconds [] 1",
        r#"jobkit_wait_seconds ["Parent", "default"] 2"#,
    ];
    assert_eq!(seen, expected);
}
