use std::sync::Arc;
use std::time::{Duration, Instant};

use jobkit_core::limit::Window;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{Call, JobQueue, JobStore, Monitoring};
use jobkit_core::{Batch, On, RetryPolicy, WaitError};

use crate::support::{Act, Bench, eventually, quick, script};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_its_result_comes_back() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    let job = bench.client.enqueue(script("a", Act::Return(42))).await.unwrap();
    assert_eq!(job.wait(SOON).await.unwrap(), 42);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_notices_a_push_at_once() {
    let bench = Bench::new();
    // Polling alone would take minutes.
    let minute = Duration::from_secs(60);
    let options = quick().poll_interval(minute, minute);
    let (_server, counted) = bench.counted_server(options).await;
    eventually("it looked for work", || async { counted.calls("claim") > 0 }).await;
    for _ in 0..20 {
        let began = Instant::now();
        let job = bench.client.enqueue(script("a", Act::Return(1))).await.unwrap();
        job.wait(SOON).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_job_starts_at_once_beside_long_ones() {
    let bench = Bench::new();
    let options = jobkit_core::ServerOptions::default().workers(20);
    let _server = bench.server(options).await;
    for _ in 0..3 {
        bench.client.enqueue(script("long", Act::Hang)).await.unwrap();
    }
    eventually("they run", || async { bench.starts_of("long") == 3 }).await;
    // The server has claimed all there was, and 17 workers are free.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let began = tokio::time::Instant::now();
        let job = bench.client.enqueue(script("new", Act::Return(1))).await.unwrap();
        job.wait(SOON).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_to_sweeps_is_done_soon_on_an_idle_system() {
    let bench = Bench::new();
    let _server = bench.server(jobkit_core::ServerOptions::default()).await;
    let within = Duration::from_secs(2);
    let hour = Duration::from_secs(3600);

    let parent = script("parent", Act::Return(1)).delay(hour);
    let children: Vec<_> =
        (0..150).map(|_| script("child", Act::Return(1)).after(&parent)).collect();
    let ids: Vec<_> = children.iter().map(jobkit_core::NewJob::id).collect();
    let parent = bench.client.enqueue(parent).await.unwrap();
    bench.client.enqueue_many(children).await.unwrap();
    let members = (0..600).map(|_| script("member", Act::Return(1)).delay(hour));
    let batch = bench.client.enqueue(Batch::new("b").jobs(members)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;

    let began = tokio::time::Instant::now();
    bench.client.delete(parent.id()).await.unwrap();
    eventually("the last child is deleted", || async {
        let last = bench.client.state(ids[149]).await.unwrap();
        let first = bench.client.state(ids[0]).await.unwrap();
        first == Some(StateName::Deleted) && last == Some(StateName::Deleted)
    })
    .await;
    assert!(began.elapsed() < within, "{:?}", began.elapsed());

    tokio::time::sleep(Duration::from_secs(30)).await;
    let began = tokio::time::Instant::now();
    batch.cancel().await.unwrap();
    eventually("the batch has ended", || async {
        batch.status().await.unwrap().unwrap().counts.deleted == 600
    })
    .await;
    assert!(began.elapsed() < within, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_until_attempts_are_used_up() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let fixes = bench.client.enqueue(script("fixes", Act::FailTimes(2))).await.unwrap();
    let never = bench.client.enqueue(script("never", Act::FailTimes(99))).await.unwrap();
    let permanent = bench.client.enqueue(script("permanent", Act::Permanent)).await.unwrap();
    assert_eq!(fixes.wait(SOON).await.unwrap(), 2);
    let error = never.wait(SOON).await.unwrap_err();
    assert!(matches!(&error, WaitError::Failed(Some(error)) if error.failures == 3), "{error:?}");
    assert!(permanent.wait(SOON).await.is_err());
    assert_eq!(
        (bench.starts_of("fixes"), bench.starts_of("never"), bench.starts_of("permanent")),
        (3, 3, 1)
    );
    let details = bench.client.job(never.id()).await.unwrap().unwrap();
    assert_eq!(details.record.head.reason, Reason::OutOfAttempts);
    assert_eq!(details.errors.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snooze_uses_no_attempt() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let job = bench.client.enqueue(script("z", Act::SnoozeOnce)).await.unwrap();
    assert_eq!(job.wait(SOON).await.unwrap(), 1, "attempt 1, though it ran twice");
    assert_eq!(bench.starts_of("z"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_become_failures_with_message_and_place() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    for (act, word) in [(Act::Panic, "on purpose"), (Act::PanicInTask, "panic")] {
        let job = script("p", act).retry(RetryPolicy::none());
        let job = bench.client.enqueue(job).await.unwrap();
        let error = job.wait(SOON).await.unwrap_err();
        let WaitError::Failed(Some(error)) = error else { panic!("{error:?}") };
        assert!(error.detail.message.contains(word), "{error:?}");
        if word == "on purpose" {
            assert_eq!(error.detail.error_type, "panic");
            assert!(error.detail.backtrace.unwrap().contains("support.rs"));
        }
    }
    assert!(server.health().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_end_what_never_returns() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let limit = Duration::from_millis(50);
    let hangs = script("hangs", Act::Hang).timeout(limit).max_attempts(1);
    let obeys = script("obeys", Act::WaitForCancel).timeout(limit).max_attempts(1);
    let (hangs, obeys) = bench.client.enqueue((hangs, obeys)).await.unwrap();
    for job in [hangs, obeys] {
        let error = job.wait(SOON).await.unwrap_err();
        assert!(
            matches!(&error, WaitError::Failed(Some(error)) if error.detail.error_type == "timeout"),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_running_job_cancels_it() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let polite = bench.client.enqueue(script("polite", Act::WaitForCancel)).await.unwrap();
    let deaf = bench.client.enqueue(script("deaf", Act::Hang)).await.unwrap();
    eventually("both run", || async { bench.ledger.lock().unwrap().running == 2 }).await;
    for job in [&polite, &deaf] {
        bench.client.delete(job.id()).await.unwrap();
        let error = job.wait(SOON).await.unwrap_err();
        assert!(matches!(error, WaitError::Deleted(Reason::Cancelled)), "{error:?}");
    }
    assert_eq!(bench.ledger.lock().unwrap().cancelled, ["polite"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_is_told_and_replaced() {
    let bench = Bench::new();
    let server = bench.server(quick().workers(1)).await;
    let blocks = script("blocks", Act::Block(3500)).timeout(Duration::from_millis(50));
    let blocks = bench.client.enqueue(blocks).await.unwrap();
    eventually("it runs", || async { bench.starts_of("blocks") == 1 }).await;
    let other = bench.client.enqueue(script("other", Act::Return(1))).await.unwrap();
    eventually("health tells", || async {
        server.health().problems.iter().any(|problem| problem.part == "handlers")
    })
    .await;
    other.wait(SOON).await.unwrap();
    // What it returns in the end counts: its lease was renewed all the time.
    blocks.wait(SOON).await.unwrap();
    eventually("health fixes", || async { server.health().is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_produces_can_always_be_settled() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let large = bench.client.enqueue(script("large", Act::Large(2 << 20))).await.unwrap();
    let long = bench.client.enqueue(script("long", Act::LongError).max_attempts(1)).await.unwrap();
    assert!(large.wait(SOON).await.is_err());
    assert!(long.wait(SOON).await.is_err());
    let large = bench.client.job(large.id()).await.unwrap().unwrap();
    assert_eq!(large.record.head.reason, Reason::ResultTooLarge);
    assert!(large.errors[0].detail.message.contains("2097154 bytes"), "{:?}", large.errors);
    let long = bench.client.job(long.id()).await.unwrap().unwrap();
    assert!(long.errors[0].detail.message.len() <= 16 << 10);
    assert!(!long.errors[0].detail.message.contains('\0'));
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_no_longer_decode_fail_at_once_and_name_the_field() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let args = serde_json::json!({ "name": 7, "act": { "Return": 1 } });
    let job = jobkit_core::job_by_name("script", args.as_object().unwrap()).unwrap();
    let job = bench.client.enqueue(job).await.unwrap();
    let error = job.wait(SOON).await.unwrap_err();
    assert!(error.to_string().contains("`name`"), "{error}");
    let details = bench.client.job(job.id()).await.unwrap().unwrap();
    assert_eq!(details.record.head.reason, Reason::BadArguments);
    assert_eq!(bench.starts_of("x"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_and_progress_arrive() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let job = bench.client.enqueue(script("tells", Act::Tell)).await.unwrap();
    job.wait(SOON).await.unwrap();
    let details = bench.client.job(job.id()).await.unwrap().unwrap();
    assert_eq!((details.progress[0].done, details.progress[0].total), (3, 10));
    use jobkit_core::storage::JobLog;
    let page = bench.storage.read_log(job.id(), None, 0, 10).await.unwrap();
    let lines: Vec<_> =
        page.lines.iter().map(|(number, line)| (*number, line.text.as_str())).collect();
    assert_eq!(lines, [(1, "first"), (2, "second")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_and_batches_run_in_order() {
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let pay = script("pay", Act::FailTimes(1));
    let receipt = script("receipt", Act::Return(2)).after(&pay);
    let alarm = script("alarm", Act::Return(3)).after(&pay).when(On::Failed);
    let members = (0..1500).map(|n| script("member", Act::Return(n)));
    let report = script("report", Act::Return(4));
    let waits = report.clone();
    let batch = Batch::new("b").jobs(members).then(report);
    let (_, receipt, alarm) = bench.client.enqueue((pay, receipt, alarm)).await.unwrap();
    let batch = bench.client.enqueue(batch).await.unwrap();
    receipt.wait(SOON).await.unwrap();
    let error = alarm.wait(SOON).await.unwrap_err();
    assert!(matches!(error, WaitError::Deleted(Reason::Unmeetable)), "{error:?}");
    eventually("the report runs", || async {
        bench.client.state(waits.id()).await.unwrap() == Some(StateName::Succeeded)
    })
    .await;
    let record = batch.status().await.unwrap().unwrap();
    assert_eq!((record.counts.total, record.counts.succeeded), (1500, 1500));
    let ledger = bench.ledger.lock().unwrap();
    let names: Vec<_> =
        ledger.ends.iter().map(String::as_str).filter(|name| *name != "member").collect();
    assert_eq!(names, ["pay", "pay", "receipt", "report"]);
    let last_member = ledger.ends.iter().rposition(|name| name == "member").unwrap();
    assert!(last_member < ledger.ends.iter().position(|name| name == "report").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_everything_runs() {
    let bench = Bench::new();
    let _one = bench.server(quick()).await;
    let _two = bench.server(quick()).await;
    let jobs = (0..60).map(|_| script("limited", Act::Sleep(5)).limit("smtp", 3));
    let report = bench.client.enqueue_many(jobs).await.unwrap();
    assert_eq!(report.stored, 60);
    eventually("all ran", || async { bench.ledger.lock().unwrap().ends.len() == 60 }).await;
    assert!(bench.ledger.lock().unwrap().most_running <= 3);
    assert_eq!(bench.starts(), [("limited".to_owned(), 60)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_a_rate_limit_go_on_when_time_has_brought_room() {
    let bench = Bench::new();
    // Neither polls nor sweeps come in time.
    let minute = Duration::from_secs(60);
    let options = quick().poll_interval(minute, minute).janitor_interval(minute);
    let _server = bench.server(options).await;
    let began = Instant::now();
    let window = Window::Sliding(Duration::from_secs(1));
    let job = |n: usize| script(&n.to_string(), Act::Return(1)).rate_limit("l", 2, window);
    bench.client.enqueue_many((0..5).map(job)).await.unwrap();
    eventually("all ran", || async { bench.ledger.lock().unwrap().ends.len() == 5 }).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "5 jobs, 2 a second: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanished_is_replaced() {
    let bench = Bench::new();
    let first = bench.server(quick()).await;
    let job = bench.client.enqueue(script("long", Act::Sleep(400))).await.unwrap();
    eventually("it runs", || async { bench.starts_of("long") == 1 }).await;
    // Its tasks end, and nobody deregisters.
    first.abort();
    let _second = bench.server(quick()).await;
    job.wait(SOON).await.unwrap();
    assert_eq!(bench.starts_of("long"), 2);
    let details = bench.client.job(job.id()).await.unwrap().unwrap();
    assert_eq!((details.record.head.crashes, details.record.head.fence), (1, 2));
    let reasons: Vec<_> = details.history.entries.iter().map(|entry| entry.reason).collect();
    assert_eq!(
        reasons,
        [Reason::Submitted, Reason::Claimed, Reason::Rescued, Reason::Claimed, Reason::Done]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_back_what_did_not_start_and_waits_for_what_runs() {
    let bench = Bench::new();
    let server = bench.server(quick().workers(2)).await;
    let jobs = (0..20).map(|_| script("slow", Act::Sleep(150)));
    bench.client.enqueue_many(jobs).await.unwrap();
    eventually("two run", || async { bench.ledger.lock().unwrap().running == 2 }).await;
    server.shutdown().await.unwrap();
    let snapshot = bench.storage.snapshot(&Call::default()).await.unwrap();
    assert_eq!(snapshot.count(StateName::Processing), 0);
    let ended = bench.ledger.lock().unwrap().ends.len() as u64;
    assert_eq!(snapshot.count(StateName::Succeeded), ended);
    assert_eq!(snapshot.count(StateName::Enqueued), 20 - ended);
    assert_eq!(snapshot.servers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cancels_what_goes_on_too_long_and_counts_no_attempt() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    let polite = bench.client.enqueue(script("polite", Act::WaitForCancel)).await.unwrap();
    let deaf = bench.client.enqueue(script("deaf", Act::Hang)).await.unwrap();
    eventually("both run", || async { bench.ledger.lock().unwrap().running == 2 }).await;
    server.shutdown().await.unwrap();
    for job in [polite, deaf] {
        let record = bench.client.job(job.id()).await.unwrap().unwrap().record;
        assert_eq!((record.state(), record.head.failures), (StateName::Enqueued, 0));
        assert_eq!(record.head.reason, Reason::GivenBack);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_handle_is_waited_for_and_stopped_by_many() {
    let bench = Bench::new();
    let server = Arc::new(bench.server(quick()).await);
    // One who stops waiting takes nothing from the others.
    let impatient = tokio::time::timeout(Duration::from_millis(20), server.join()).await;
    assert!(impatient.is_err(), "it runs");
    let waiting = [Arc::clone(&server), Arc::clone(&server)]
        .map(|server| tokio::spawn(async move { server.join().await }));
    server.shutdown().await.unwrap();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(bench.storage.snapshot(&Call::default()).await.unwrap().servers, 0);
    server.join().await.unwrap();
    assert!(server.health().is_ok(), "it can still be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handle_stops_the_server() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    drop(server);
    eventually("it deregistered", || async {
        bench.storage.snapshot(&Call::default()).await.unwrap().servers == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_job_fails_at_its_crash_limit_and_spares_its_neighbours() {
    let bench = Bench::new();
    let poison = bench.client.enqueue(script("poison", Act::Hang)).await.unwrap();
    let mut neighbours = Vec::new();
    for round in 0..3 {
        let server = bench.server(quick().workers(4)).await;
        for _ in 0..10 {
            neighbours
                .push(bench.client.enqueue(script("neighbour", Act::Sleep(1))).await.unwrap());
        }
        eventually("the poison runs", || async { bench.starts_of("poison") > round }).await;
        server.abort();
    }
    let _last = bench.server(quick()).await;
    let error = poison.wait(SOON).await.unwrap_err();
    assert!(matches!(error, WaitError::Failed(_)), "{error:?}");
    let record = bench.client.job(poison.id()).await.unwrap().unwrap().record;
    assert_eq!((record.head.reason, record.head.crashes), (Reason::CrashLimit, 3));
    for neighbour in neighbours {
        neighbour.wait(SOON).await.unwrap();
    }
}

// One thread, so that a heartbeat that is seen was answered, too.
#[tokio::test]
async fn a_pause_that_was_lifted_since_it_was_read_gives_nothing_back() {
    use jobkit_core::recurring::Pause;
    use jobkit_core::storage::{Operations, PauseTarget};

    let bench = Bench::new();
    let queue = PauseTarget::Queue(jobkit_core::Name::default_queue());
    bench.storage.pause(&Call::default(), &queue, &Pause::new("ann", "test")).await.unwrap();
    // It learns of the pause when it starts, and would learn of its end in ten seconds.
    let options = quick().lease(Duration::from_secs(30));
    let (_server, counted) = bench.counted_server(options).await;
    eventually("it learnt of the pause", || async { counted.calls("heartbeat") > 0 }).await;
    bench.storage.resume(&Call::default(), &queue).await.unwrap();
    let job = bench.client.enqueue(script("a", Act::Return(1))).await.unwrap();
    assert_eq!(job.wait(Duration::from_secs(5)).await.unwrap(), 1);
    let record = bench.client.job(job.id()).await.unwrap().unwrap().record;
    assert_eq!(record.head.fence, 1, "it was claimed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_rests_and_goes_on() {
    use jobkit_core::recurring::Pause;
    use jobkit_core::storage::{Operations, PauseTarget};
    let bench = Bench::new();
    let _server = bench.server(quick()).await;
    let queue = PauseTarget::Queue(jobkit_core::Name::default_queue());
    bench.storage.pause(&Call::default(), &queue, &Pause::new("ann", "test")).await.unwrap();
    let job = bench.client.enqueue(script("a", Act::Return(1))).await.unwrap();
    assert!(matches!(job.wait(Duration::from_millis(300)).await, Err(WaitError::TimedOut(_))));
    assert_eq!(bench.starts_of("a"), 0);
    bench.storage.resume(&Call::default(), &queue).await.unwrap();
    job.wait(SOON).await.unwrap();
}

/// G15: what was claimed before the pause and has not started.
#[tokio::test(start_paused = true)]
async fn a_pause_gives_back_what_was_claimed_ahead() {
    use jobkit_core::recurring::Pause;
    use jobkit_core::storage::{Operations, PauseTarget};
    let bench = Bench::new();
    let options = jobkit_core::ServerOptions::default()
        .workers(1)
        .prefetch(jobkit_core::server::Prefetch::Fixed(5));
    let interval = Duration::from_secs(10);
    let mut jobs = vec![script("running", Act::Sleep(60_000))];
    jobs.extend((0..5).map(|_| script("ahead", Act::Return(1))));
    let jobs = bench.client.enqueue(jobs).await.unwrap();
    let count = async |state| bench.storage.snapshot(&Call::default()).await.unwrap().count(state);
    let _server = bench.server(options).await;
    eventually("it has claimed all", || async { count(StateName::Processing).await == 6 }).await;
    let queue = PauseTarget::Queue(jobkit_core::Name::default_queue());
    bench.storage.pause(&Call::default(), &queue, &Pause::new("ann", "test")).await.unwrap();
    tokio::time::sleep(interval).await;
    for _ in 0..2 {
        let states = (count(StateName::Processing).await, count(StateName::Enqueued).await);
        assert_eq!(states, (1, 5), "what runs goes on");
        tokio::time::sleep(interval).await;
    }
    assert_eq!(bench.starts_of("ahead"), 0);
    jobs[0].wait(SOON * 10).await.unwrap();
    bench.storage.resume(&Call::default(), &queue).await.unwrap();
    for job in &jobs[1..] {
        job.wait(SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recurring_jobs_fire_and_know_their_instant() {
    let bench = Bench::new();
    let recurring = jobkit_core::Recurring::every("tick", Duration::from_secs(1))
        .job(script("tick", Act::Return(1)));
    bench.client.save_recurring(recurring).await.unwrap();
    let _one = bench.server(quick()).await;
    let _two = bench.server(quick()).await;
    eventually("it fired twice", || async { bench.starts_of("tick") >= 2 }).await;
    use jobkit_core::storage::RecurringStore;
    let runs = bench.storage.recurring_runs("tick", 100).await.unwrap();
    let mut instants: Vec<_> = runs.iter().map(|run| run.nominal_at).collect();
    instants.dedup();
    assert_eq!(instants.len(), runs.len(), "one job an occurrence");
    let triggered = bench.client.trigger_recurring("tick").await.unwrap();
    eventually("the trigger ran", || async {
        bench.client.state(triggered).await.unwrap() == Some(StateName::Succeeded)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_jobs_are_counted() {
    let bench = Bench::new();
    let _one = bench.server(quick()).await;
    let _two = bench.server(quick()).await;
    let jobs = (0..20_000).map(|n| script("small", Act::Return(n)));
    bench.client.enqueue_many(jobs).await.unwrap();
    eventually("all ran", || async {
        bench.storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded)
            == 20_000
    })
    .await;
    assert_eq!(bench.starts(), [("small".to_owned(), 20_000)].into());
}

#[test]
fn mistakes_are_told_together() {
    use jobkit_core::{Jobs, MemoryStorage, Server};
    let ledger = Default::default();
    let twice = crate::support::jobs(&ledger).merge(crate::support::jobs(&ledger));
    let bad =
        jobkit_core::Recurring::cron("r", "1-100000000 * * * *").job(script("x", Act::Return(1)));
    let error = Server::builder(MemoryStorage::new())
        .jobs(twice)
        .recurring(bad)
        .queues(["mail", "mail"])
        .workers(0)
        .build()
        .unwrap_err();
    let text = error.to_string();
    for part in [
        "workers: ",
        "two jobs are named `script`",
        "name `mail` twice",
        "do not contain `default`",
        "cron: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(Server::builder(MemoryStorage::new()).jobs(Jobs::new()).build().is_err());
}

/// A frozen worker comes back after another attempt has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_holder_cannot_settle() {
    use jobkit_core::state_machine::Ending;
    use jobkit_core::storage::{Settle, SettleAnswer, SettleRequest};
    let bench = Bench::new();
    let first = bench.server(quick()).await;
    let job = bench.client.enqueue(script("frozen", Act::Sleep(500))).await.unwrap();
    eventually("it runs", || async { bench.starts_of("frozen") == 1 }).await;
    let record = bench.storage.jobs(&[job.id()]).await.unwrap().remove(0).unwrap();
    let jobkit_core::state::State::Processing(hold) = &record.head.state else {
        panic!("{record:?}")
    };
    let lease = jobkit_core::record::Lease {
        job: job.id(),
        locator: jobkit_core::record::Locator(record.sequence),
        fence: record.head.fence,
        incarnation: hold.incarnation,
    };
    first.abort();
    let _second = bench.server(quick()).await;
    eventually("the other attempt runs", || async { bench.starts_of("frozen") == 2 }).await;
    let request = SettleRequest {
        server: jobkit_core::Name::from_stored("first"),
        settles: vec![Settle::new(lease, Ending::Failed(Reason::Permanent))],
    };
    assert_eq!(
        bench.storage.settle(&Call::default(), &request).await.unwrap(),
        [SettleAnswer::LeaseLost]
    );
    job.wait(SOON).await.unwrap();
}

/// What users wrote may panic anywhere: in decoding, encoding, dropping.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_anywhere_is_a_failure_and_costs_no_worker() {
    use jobkit_core::{Client, Failure, Job, JobContext, Jobs, MemoryStorage, NewJob, Server};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
    enum Where {
        Decoding,
        Encoding,
        Dropping,
        Nowhere,
    }

    struct Panics(Where);

    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let place = Where::deserialize(deserializer)?;
            assert!(place != Where::Decoding, "decoding");
            Ok(Self(place))
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Mine(Panics);

    struct Output(Where);

    impl Serialize for Output {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 != Where::Encoding, "encoding");
            serializer.serialize_unit()
        }
    }

    impl<'de> Deserialize<'de> for Output {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            <()>::deserialize(deserializer).map(|()| Self(Where::Nowhere))
        }
    }

    impl Job for Mine {
        const KIND: &'static str = "mine";
        type Output = Output;
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropping");
        }
    }

    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let jobs = Jobs::new().handle(|job: Mine, _: JobContext| async move {
        if job.0.0 == Where::Dropping {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        Ok::<_, Failure>(Output(job.0.0))
    });
    let server = Server::builder(storage).jobs(jobs).options(quick().workers(1)).build().unwrap();
    let _server = server.start().await.unwrap();
    for place in [Where::Decoding, Where::Encoding, Where::Dropping, Where::Nowhere] {
        let job =
            NewJob::new(Mine(Panics(place))).max_attempts(1).timeout(Duration::from_millis(50));
        let job = client.enqueue(job).await.unwrap();
        let ended = job.wait(SOON).await;
        if place == Where::Nowhere {
            assert!(ended.is_ok());
        } else {
            let Err(WaitError::Failed(Some(error))) = ended else { panic!("no failure") };
            assert_eq!(error.detail.error_type, "panic");
        }
    }
}
