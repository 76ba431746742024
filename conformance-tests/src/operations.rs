//! What an operator does.

use jobkit_core::ErrorKind;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Heartbeat, PauseRecord, PauseTarget, Renewal};

use crate::fixtures::*;

fn queue(queue: &str) -> PauseTarget {
    PauseTarget::Queue(name(queue))
}

fn kind(kind: &str) -> PauseTarget {
    PauseTarget::Kind(name(kind))
}

async fn pause(env: &Env, target: &PauseTarget) {
    env.storage.pause(target, &Pause::new("ada", "deploy"), env.at()).await.expect("pauses");
}

/// OPS-1, CLM-6, G15: a paused queue or kind yields nothing, whatever was there before or comes; others
/// are not disturbed, and running jobs go on.
pub async fn a_paused_queue_or_kind_yields_nothing(env: Env) {
    for target in [queue("mail"), kind("slow")] {
        let new = || NewRecord { queue: name("mail"), ..job_of("slow") };
        let mut server = env.claimer("s").await.queues(&["mail", "default"]).kinds(&["slow", "k"]);
        let running = env.add(new()).await;
        let lease = server.claim_one().await.lease;
        let before = env.add(new()).await;
        pause(&env, &target).await;
        let after = env.add(new()).await;
        let other = env.add(job()).await;
        assert_eq!(server.claim_ids(10).await, [other]);
        assert_eq!(server.renew(1..=2, vec![]).await.given_back.len(), 2, "both come back");
        assert_eq!(server.claim_ids(10).await, [other]);
        assert!(env.storage.resume(&target).await.expect("resumes"));
        let mut rest = server.claim(10).await;
        assert_eq!(lease.job, running);
        let ids: Vec<_> = rest.iter().map(|job| job.lease.job).collect();
        assert_eq!(ids, [running, before, after], "in their old order");
        pause(&env, &target).await;
        // What runs goes on: it renews, settles, and its retry waits.
        let job = rest.remove(0);
        let held = vec![Renewal { lease: job.lease, started: true }];
        server.renew(99..=99, held).await;
        server.settled(job.lease, RETRY_NOW).await;
        assert!(server.claim(10).await.is_empty());
        env.storage.resume(&target).await.expect("resumes");
        assert_eq!(server.run_one(Ending::Succeeded).await, running);
        for job in rest {
            server.settled(job.lease, Ending::Succeeded).await;
        }
        let leftover = env.storage.pauses(env.at()).await.expect("lists");
        assert!(leftover.is_empty());
    }
}

/// OPS-1: a claim that starts after the pause gets nothing, also in the same call as a settle.
pub async fn settle_and_claim_respects_a_pause(env: Env) {
    env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    pause(&env, &queue("default")).await;
    let settle = jobkit_core::storage::SettleRequest {
        server: server.server.clone(),
        settles: vec![jobkit_core::storage::Settle::new(lease, Ending::Succeeded)],
        now: env.at(),
    };
    let claim = server.request(2, 10);
    let (answers, claimed) =
        env.storage.settle_and_claim(&settle, &claim).await.expect("settles and claims");
    assert_eq!((answers.len(), claimed.jobs.len()), (1, 0));
}

/// OPS-2, G21: resume makes the waiting jobs claimable at once, and tells whether anything was paused.
pub async fn resume_makes_waiting_jobs_claimable(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let target = queue("default");
    assert!(!env.storage.resume(&target).await.expect("resumes"));
    pause(&env, &target).await;
    pause(&env, &kind("k")).await;
    let mut server = env.claimer("s").await;
    assert!(env.storage.resume(&target).await.expect("resumes"));
    assert!(server.claim(10).await.is_empty(), "its kind is still paused");
    assert!(env.storage.resume(&kind("k")).await.expect("resumes"));
    assert!(!env.storage.resume(&kind("k")).await.expect("resumes"));
    assert_eq!(server.claim_ids(10).await, ids);
}

/// OPS-3: a pause with an end lifts itself at that instant.
pub async fn a_pause_with_an_end_lifts_itself(env: Env) {
    let id = env.add(job()).await;
    let target = queue("default");
    let until = Pause { until: Some(env.after(60)), ..Pause::new("ada", "deploy") };
    env.storage.pause(&target, &until, env.at()).await.expect("pauses");
    let mut server = env.claimer("s").await;
    env.advance(59);
    assert!(server.claim(10).await.is_empty());
    assert_eq!(env.storage.pauses(env.at()).await.expect("lists").len(), 1);
    env.advance(1);
    assert!(env.storage.pauses(env.at()).await.expect("lists").is_empty());
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// OPS-4, SRV-2: what is paused is listed with who, why, since and until when, told by heartbeats, and a
/// second pause replaces the first.
pub async fn what_is_paused_is_listed(env: Env) {
    let server = env.claimer("s").await;
    let first = Pause { until: Some(env.after(600)), ..Pause::new("ada", "deploy") };
    env.storage.pause(&queue("mail"), &first, env.at()).await.expect("pauses");
    env.advance(10);
    let second = Pause::new("bob@example", "größer als '; --");
    env.storage.pause(&queue("mail"), &second, env.at()).await.expect("pauses");
    env.storage.pause(&kind("k@2"), &first, env.at()).await.expect("pauses");
    let since = env.now();
    let mut listed = env.second().await.storage.pauses(env.at()).await.expect("lists");
    listed.sort_by(|a, b| a.target.cmp(&b.target));
    let expected = [
        PauseRecord { target: queue("mail"), pause: Pause { since, ..second } },
        PauseRecord { target: kind("k@2"), pause: Pause { since, ..first } },
    ];
    assert_eq!(listed, expected);
    let beat = Heartbeat { incarnation: server.incarnation, busy: 0 };
    let mut told = env.storage.heartbeat(&beat, env.at()).await.expect("beats").paused;
    told.sort();
    assert_eq!(told, [queue("mail"), kind("k@2")]);
    let bad = Pause::new("ada", "a\0b");
    let error = env.storage.pause(&queue("x"), &bad, env.at()).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
