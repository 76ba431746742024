//! Why a job is not running: each cause, computed by core from what the storage tells.

use jobkit_core::batch::Starts;
use jobkit_core::edge::{On, Parent};
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, ChangeOutcome, Count, Heartbeat, PauseTarget, ServerCommand, ServerOrder, Settle,
    Storage,
};
use jobkit_core::why::{Cause, why};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

async fn causes(env: &Env, job: JobId) -> Vec<Cause> {
    let storage: &dyn Storage = &*env.second().await.storage;
    let why = why(storage, &env.call(), job).await.expect("reads").expect("is stored");
    assert_eq!(why.now, env.now());
    assert_eq!(why.state, env.state(job).await);
    why.causes
}

async fn sentence(env: &Env, job: JobId) -> String {
    let why = why(&*env.storage, &env.call(), job).await.expect("reads").expect("is stored");
    why.to_string()
}

async fn busy(env: &Env, server: &Claimer, busy: u32) {
    let beat = Heartbeat { incarnation: server.incarnation, busy };
    assert!(env.storage.heartbeat(&env.call(), &beat).await.expect("beats").known);
}

/// MON-9, G21: a claimable job that a live server serves is the next, or others run before it, or all are busy.
pub async fn why_a_claimable_job_waits(env: Env) {
    let server = env.claimer("s").await;
    let first = env.add(job()).await;
    let second = env.add(job()).await;
    assert_eq!(causes(&env, first).await, [Cause::Next]);
    assert_eq!(causes(&env, second).await, [Cause::Behind(Count::Exact(1))]);
    let workers = server.info().workers;
    busy(&env, &server, workers).await;
    assert_eq!(causes(&env, first).await, [Cause::WorkersBusy { workers }]);
    assert!(sentence(&env, second).await.contains("1 job of its queue runs before it; all"));
    let nobody = why(&*env.storage, &env.call(), JobId::new()).await.expect("reads");
    assert_eq!(nobody, None);
}

/// SRV-1, OPS-6, G21: nobody serves its queue and kind, or everybody who does was told to be quiet.
pub async fn why_a_job_waits_for_a_server(env: Env) {
    let (queue, kind) = (name("mail"), name("slow"));
    let id = env.add(NewRecord { queue: queue.clone(), ..job_of("slow") }).await;
    let nobody = |serve_queue, serve_kind| {
        [Cause::NoServer { queue: queue.clone(), kind: kind.clone(), serve_queue, serve_kind }]
    };
    assert_eq!(causes(&env, id).await, nobody(0, 0));
    assert!(
        sentence(&env, id).await.starts_with("no live server serves kind `slow` in queue `mail`")
    );
    env.claimer("a").await.queues(&["mail"]).kinds(&["other"]).announce().await;
    assert_eq!(causes(&env, id).await, nobody(1, 0));
    env.claimer("b").await.queues(&["default"]).kinds(&["slow"]).announce().await;
    assert_eq!(causes(&env, id).await, nobody(1, 1));
    let both = env.claimer("c").await.queues(&["mail"]).kinds(&["slow"]);
    both.announce().await;
    assert_eq!(causes(&env, id).await, [Cause::Next]);
    let order = ServerOrder::new(ServerCommand::Quiet, "ada", "deploy");
    env.storage.command_server(&env.call(), &name("c"), Some(&order)).await.expect("is told");
    assert_eq!(causes(&env, id).await, [Cause::ServersQuiet(vec![name("c")])]);
    env.storage.command_server(&env.call(), &name("c"), None).await.expect("is told");
    env.advance(61);
    assert_eq!(causes(&env, id).await, nobody(0, 0), "all have been silent");
    busy(&env, &both, 0).await;
    assert_eq!(causes(&env, id).await, [Cause::Next]);
}

/// OPS-4, G15: its queue or kind is paused: by whom, why, since and until when.
pub async fn why_a_paused_job_waits(env: Env) {
    let _server = env.claimer("s").await;
    let id = env.add(job()).await;
    let pause = Pause { until: Some(env.after(600)), ..Pause::new("ada", "deploy") };
    let forever = Pause::new("bob", "");
    let (queue, kind) = (PauseTarget::Queue(name("default")), PauseTarget::Kind(name("k")));
    env.storage.pause(&env.call(), &queue, &pause).await.expect("pauses");
    env.storage.pause(&env.call(), &kind, &forever).await.expect("pauses");
    let since = env.now();
    let expected = [
        Cause::QueuePaused(name("default"), Pause { since, ..pause }),
        Cause::KindPaused(name("k"), Pause { since, ..forever }),
    ];
    assert_eq!(causes(&env, id).await, expected);
    let text = sentence(&env, id).await;
    assert!(text.contains("paused by ada") && text.contains("\"deploy\""), "{text}");
    assert!(
        text.contains("(in 10 min 0 s)") && text.contains("until somebody resumes it"),
        "{text}"
    );
    env.storage.resume(&env.call(), &kind).await.expect("resumes");
    env.advance(600);
    let server = env.claimer("t").await;
    busy(&env, &server, 0).await;
    assert_eq!(causes(&env, id).await, [Cause::Next]);
}

/// GET-2, G16: scheduled for when and why, and what will keep it from running then.
pub async fn why_a_scheduled_job_waits(env: Env) {
    let mut server = env.claimer("s").await;
    let id = env.add(NewRecord { start: Start::After(seconds(90)), ..job() }).await;
    let scheduled = Cause::Scheduled {
        run_at: env.after(90),
        reason: Reason::Delay,
        attempt: 1,
        last_error: None,
    };
    assert_eq!(causes(&env, id).await, [scheduled]);
    assert!(sentence(&env, id).await.contains("(in 1 min 30 s)"));
    let failed = env.add(job()).await;
    let lease = server.claim_one().await.lease;
    assert_eq!(lease.job, failed);
    let mut settle = Settle::new(lease, Ending::Retry { delay: seconds(30) });
    settle.error = Some(error("no route to host"));
    server.settle_with(settle).await;
    let retry = Cause::Scheduled {
        run_at: env.after(30),
        reason: Reason::Retry,
        attempt: 2,
        last_error: Some("no route to host".into()),
    };
    assert_eq!(causes(&env, failed).await, std::slice::from_ref(&retry));
    assert!(sentence(&env, failed).await.contains("as attempt 2 after: no route to host"));
    let queue = PauseTarget::Queue(name("default"));
    env.storage.pause(&env.call(), &queue, &Pause::new("ada", "deploy")).await.expect("pauses");
    let causes = causes(&env, failed).await;
    assert_eq!(causes[0], retry);
    assert!(matches!(&causes[1..], [Cause::QueuePaused(..)]), "{causes:?}");
}

/// GET-2, G8, G9: the parents it waits for with their states, and a batch that has not been started.
pub async fn why_an_awaiting_job_waits(env: Env) {
    let _server = env.claimer("s").await;
    let parents = env.add_many(jobs(2)).await;
    let mut child = after(parents[0], On::Success);
    child.edges.push(jobkit_core::edge::Edge { parent: Parent::Job(parents[1]), on: On::Any });
    let child = env.add(child).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, parents[0]);
    let open = vec![(Parent::Job(parents[1]), On::Any, Some(StateName::Enqueued))];
    assert_eq!(causes(&env, child).await, [Cause::Parents { open, more: 0 }]);
    let text = sentence(&env, child).await;
    assert!(text.contains(&format!("job {} (enqueued) to finish", parents[1])), "{text}");

    let batch = BatchId::new();
    let waiting = member(batch);
    env.submit(batch_of(batch, Starts::WhenStarted, vec![waiting.clone()])).await;
    assert_eq!(causes(&env, waiting.id).await, [Cause::BatchNotStarted(batch)]);
    let after_it = env.add(after_batch(batch, On::Success)).await;
    let open = vec![(Parent::Batch(batch), On::Success, None)];
    assert_eq!(causes(&env, after_it).await, [Cause::Parents { open, more: 0 }]);
}

/// GET-2, G8: a job that was deleted since its parents did not end as it needed; which they were, and how.
pub async fn why_a_job_can_never_run(env: Env) {
    let parents = env.add_many(jobs(3)).await;
    let mut child = after(parents[0], On::Any);
    child.edges.extend(
        [(parents[1], On::Success), (parents[2], On::Failed)]
            .map(|(parent, on)| jobkit_core::edge::Edge { parent: Parent::Job(parent), on }),
    );
    let child = env.add(child).await;
    for parent in &parents[..2] {
        env.change(*parent, Action::Delete { keep: None }).await;
    }
    let finished =
        Cause::Finished { state: StateName::Deleted, reason: Reason::Unmeetable, at: env.now() };
    let unmet = vec![(Parent::Job(parents[1]), On::Success, Some(StateName::Deleted))];
    let unmet = Cause::Unmet { parents: unmet, more: 0 };
    assert_eq!(causes(&env, child).await, [finished, unmet]);
    let text = sentence(&env, child).await;
    assert!(text.contains("its condition can no longer be met"), "{text}");
    let named = format!("it waited in vain for job {} (deleted) to succeed", parents[1]);
    assert!(text.contains(&named), "{text}");
    let text = sentence(&env, parents[0]).await;
    assert!(text.starts_with("it is deleted since ") && text.ends_with(": on request"), "{text}");
}

/// LIM-2, G13: which limit is full, and who holds it; or when a rate limit has room again.
pub async fn why_a_limited_job_waits(env: Env) {
    let ids = env.add_many((0..2).map(|_| limited("l", 1)).collect()).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [ids[0]]);
    let found = causes(&env, ids[1]).await;
    let [Cause::LimitFull { limit, holders, room_at: None }] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(*limit, Limit::new("l", 1));
    assert_eq!(holders.iter().map(|it| it.job).collect::<Vec<_>>(), [ids[0]]);
    let text = sentence(&env, ids[1]).await;
    assert!(text.contains(&format!("limit `l` of 1 is full, held by {}", ids[0])), "{text}");

    let rated =
        || NewRecord { limits: vec![Limit::rate("r", 1, Window::Sliding(seconds(600)))], ..job() };
    let rated = env.add_many(vec![rated(), rated()]).await;
    assert_eq!(server.claim_ids(10).await, [rated[0]]);
    let found = causes(&env, rated[1]).await;
    let [Cause::LimitFull { holders, room_at: Some(room_at), .. }] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(holders.is_empty());
    assert!(*room_at > env.now());
}

/// SRV-4, G4: who runs it since when; a silent server and the end of its lease; a stop that was asked for.
pub async fn why_a_running_job_is_as_it_is(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let since = env.now();
    let lease = server.claim_one().await.lease;
    let runs = Cause::Runs { server: name("s"), since, attempt: 1 };
    assert_eq!(causes(&env, id).await, [runs]);
    assert_eq!(env.change(id, Action::Delete { keep: None }).await, ChangeOutcome::Cancelling);
    assert_eq!(causes(&env, id).await, [Cause::Stopping]);
    env.advance(61);
    let silent =
        |since| Cause::ServerSilent { server: name("s"), since, lease_ends_at: env.after(30 - 61) };
    assert_eq!(causes(&env, id).await, [silent(Some(since)), Cause::Stopping]);
    assert!(sentence(&env, id).await.contains("has been silent since"));
    let gone = env.storage.remove_dead(&env.call(), seconds(60)).await.expect("removes");
    assert_eq!(gone, [name("s")]);
    assert_eq!(causes(&env, id).await, [silent(None), Cause::Stopping]);
    assert_eq!(server.settled(lease, Ending::Succeeded).await, StateName::Succeeded);
    let finished =
        Cause::Finished { state: StateName::Succeeded, reason: Reason::Done, at: env.now() };
    assert_eq!(causes(&env, id).await, [finished]);
}
