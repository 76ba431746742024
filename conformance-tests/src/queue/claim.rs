//! `claim`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobkit_core::bounds;
use jobkit_core::record::{Lease, NewRecord};
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    ClaimRequest, QueueQuota, RenewAnswer, RenewRequest, Renewal, Settle, SettleAnswer,
    SettleRequest,
};
use jobkit_core::{ErrorKind, JobId};

use crate::fixtures::*;

/// CLM-1, G4: of many claimers on two connections every job is claimed by exactly one.
pub async fn many_claimers_get_each_job_once(env: Env) {
    const CLAIMERS: usize = 8;
    const JOBS: usize = 4_000;
    let expected = env.add_many(jobs(JOBS)).await;
    let other = env.second().await;
    let left = Arc::new(AtomicUsize::new(JOBS));
    let mut tasks = Vec::new();
    for i in 0..CLAIMERS {
        let env = if i % 2 == 0 { &env } else { &other };
        let mut server = env.claimer(&format!("s{i}")).await;
        let left = left.clone();
        tasks.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            while left.load(Ordering::SeqCst) > 0 {
                let claimed = server.claim(7 + i).await;
                left.fetch_sub(claimed.len(), Ordering::SeqCst);
                mine.extend(claimed.iter().map(|job| job.lease.job));
                let settles = claimed.iter().map(|job| Settle::new(job.lease, Ending::Succeeded));
                for answer in server.settle_all(settles.collect()).await {
                    assert_eq!(answer, SettleAnswer::Settled(StateName::Succeeded));
                }
                tokio::task::yield_now().await;
            }
            mine
        }));
    }
    let mut claims: HashMap<JobId, usize> = HashMap::new();
    for job in join(tasks).await.into_iter().flatten() {
        *claims.entry(job).or_default() += 1;
    }
    assert_eq!(claims.len(), JOBS);
    assert!(claims.values().all(|count| *count == 1), "a job was claimed twice");
    let states = env.states(&expected).await;
    assert!(states.iter().all(|state| *state == StateName::Succeeded));
}

/// CLM-1, G4: a job that is held is not claimed by anyone else, its holder included.
pub async fn claim_skips_jobs_leased_by_another_worker(env: Env) {
    env.add(job()).await;
    let mut first = env.claimer("first").await;
    let mut second = env.claimer("second").await;
    first.claim_one().await;
    assert!(second.claim(10).await.is_empty());
    assert!(first.claim(10).await.is_empty());
    // Expiry only permits rescue: it does not make the job claimable.
    env.advance(60);
    assert!(second.claim(10).await.is_empty());
}

/// CLM-2, G14: claims go by priority, 9 first, and then by the order of submission, whatever the kinds.
pub async fn claims_go_by_priority_and_then_by_age(env: Env) {
    let mut expected = Vec::new();
    for i in 0..60_u8 {
        let priority = i % 10 * 7 % 10;
        let kind = ["k", "l", "m"][usize::from(i) % 3];
        let id = env.add(NewRecord { priority, ..job_of(kind) }).await;
        expected.push((9 - priority, i, id));
    }
    expected.sort_unstable();
    let mut server = env.claimer("s").await.kinds(&["m", "k", "l"]);
    let mut claimed = Vec::new();
    for size in [1, 5, 20, 100] {
        claimed.extend(server.claim_ids(size).await);
    }
    assert_eq!(claimed, expected.iter().map(|it| it.2).collect::<Vec<_>>());
}

/// CLM-2: queues are served in the order named, each up to its quota, all up to the claim's maximum.
pub async fn queues_are_served_in_order_within_their_quotas(env: Env) {
    let mut jobs = Vec::new();
    for queue in ["a", "b", "c"] {
        for _ in 0..4 {
            jobs.push(NewRecord { priority: if queue == "c" { 9 } else { 5 }, ..job_in(queue) });
        }
    }
    env.add_many(jobs).await;
    let mut server = env.claimer("s").await;
    let quota = |queue, max| QueueQuota { queue: name(queue), max };
    server.queues = vec![quota("b", 2), quota("a", 3), quota("none", 5), quota("c", 10)];
    let mut take = async |max| {
        let claimed = server.claim(max).await;
        claimed.iter().map(|job| job.queue.as_str().to_owned()).collect::<Vec<_>>().concat()
    };
    assert_eq!(take(7).await, "bbaaacc");
    assert_eq!(take(100).await, "bbacc");
    assert_eq!(take(100).await, "");
}

/// CLM-3: a kind that was not named is never taken, however much of it stands in front, and a queue
/// that was not named neither.
pub async fn a_kind_that_was_not_named_is_never_taken(env: Env) {
    let mut foreign = Vec::new();
    for _ in 0..1_500 {
        foreign.push(NewRecord { priority: 9, ..job_of("foreign") });
    }
    env.add_many(foreign).await;
    let mine = env.add(job()).await;
    let newer = env.add(job_of("k@2")).await;
    env.add(job_in("elsewhere")).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [mine]);
    assert!(server.claim(10).await.is_empty());
    let mut both = env.claimer("both").await.kinds(&["k@2", "k", "unknown"]);
    assert_eq!(both.claim_ids(10).await, [newer]);
}

/// CLM-4, G5: each claim of a job raises its fence by one, whatever happened between.
pub async fn each_claim_raises_the_fence_by_one(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let mut expected = 0;
    let mut claim = async || {
        let lease = server.claim_one().await.lease;
        expected += 1;
        assert_eq!((lease.job, lease.fence), (id, expected));
        (server.clone(), lease)
    };
    for ending in [RETRY_NOW, Ending::GivenBack, Ending::Snoozed { delay: Duration::ZERO }] {
        let (server, lease) = claim().await;
        server.settled(lease, ending).await;
    }
    claim().await;
    env.advance(60);
    assert_eq!(env.rescue_all().await, [(id, StateName::Enqueued)]);
    let (server, lease) = claim().await;
    server.settled(lease, Ending::Succeeded).await;
    env.requeue(id).await;
    claim().await;
    assert_eq!(env.record(id).await.head.fence, 6);
}

/// CLM-5, G6: repeating a claim answers the same leases, in their order, and takes nothing more.
pub async fn a_repeated_claim_answers_the_same_leases(env: Env) {
    env.add_many(jobs(18)).await;
    // Others before them, and in their queue an older one that goes last.
    env.add_many(vec![NewRecord { priority: 9, ..job() }, job_in("first")]).await;
    let mut server = env.claimer("s").await;
    server.queues.insert(0, QueueQuota { queue: name("first"), max: 500 });
    let leases = |jobs: &[jobkit_core::storage::ClaimedJob]| -> Vec<Lease> {
        jobs.iter().map(|job| job.lease).collect()
    };
    let first = server.claim(5).await;
    for max in [5, 10] {
        let again = server.repeat_claim(max).await;
        assert_eq!(leases(&again), leases(&first));
        assert_eq!(again[0].args, first[0].args);
    }
    assert_eq!(server.claim(20).await.len(), 15);
}

/// CLM-5: a repeated claim leaves out what is not held any more.
pub async fn a_repeated_claim_leaves_out_what_was_settled(env: Env) {
    env.add_many(jobs(4)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    server.settled(claimed[1].lease, Ending::Succeeded).await;
    let again = server.repeat_claim(3).await;
    let fences: Vec<_> = again.iter().map(|job| job.lease).collect();
    assert_eq!(fences, [claimed[0].lease, claimed[2].lease]);
    // A job that came back is not part of the old claim, even when the same server holds it.
    server.settled(claimed[0].lease, Ending::GivenBack).await;
    let taken = server.claim_one().await;
    assert_eq!(taken.lease.job, claimed[0].lease.job);
    let old = server
        .env
        .storage
        .claim(&server.env.call(), &server.request(1, 3))
        .await
        .expect("claims")
        .jobs;
    assert_eq!(old.iter().map(|job| job.lease).collect::<Vec<_>>(), [claimed[2].lease]);
}

/// CLM-8: a job that had to be started by an instant that has passed becomes Deleted instead; a retry
/// of it does not.
pub async fn a_job_not_started_in_time_is_deleted(env: Env) {
    let by = |at| NewRecord { start_by: Some(at), ..job() };
    let late = env.add(by(env.after(10))).await;
    let started = env.add(by(env.after(20))).await;
    let plain = env.add(job()).await;
    env.advance(10);
    let mut server = env.claimer("s").await;
    let claimed = server.claim(1).await.remove(0);
    assert_eq!(claimed.lease.job, started);
    let record = env.record(late).await;
    assert_eq!(
        (record.state(), record.head.reason),
        (StateName::Deleted, Reason::NotStartedInTime)
    );
    assert_eq!((record.head.fence, record.expires_at.is_some()), (0, true));
    server.settled(claimed.lease, RETRY_NOW).await;
    env.advance(60);
    assert_eq!(server.claim_ids(10).await, [started, plain]);
}

/// CLM-9: a record that cannot be decoded becomes Failed, and its neighbours are claimed.
pub async fn an_unreadable_record_fails_and_its_neighbours_are_claimed(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    if !env.make_unreadable(ids[1]).await {
        // The backend cannot damage a record: its own tests have to.
        return;
    }
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [ids[0], ids[2]]);
    let records = env.storage.jobs(&[ids[1]]).await;
    if let Ok(records) = records {
        let record = records[0].as_ref().expect("it is kept");
        assert_eq!((record.state(), record.head.reason), (StateName::Failed, Reason::Unreadable));
    }
    assert!(server.claim(10).await.is_empty());
}

/// CLM-10: a server that is not announced cannot claim.
pub async fn a_server_that_is_not_announced_cannot_claim(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.stranger("s");
    let request = server.request(1, 10);
    let error = env.storage.claim(&env.call(), &request).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::NotAnnounced);
    assert_eq!(env.state(id).await, StateName::Enqueued);
    server.announce().await;
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// CLM-11, RES-2: of a claim the first jobs count as started, the others when a renew says so; only
/// those that have started count a crash.
pub async fn only_attempts_that_have_started_count_a_crash(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await.started(1);
    let claimed = server.claim(3).await;
    for (n, id) in ids.iter().enumerate() {
        let State::Processing(hold) = env.record(*id).await.head.state else { panic!("it runs") };
        assert_eq!(hold.started, n == 0, "the {n}th");
    }
    let held = [(0, true), (1, true), (2, false)];
    let held = held.map(|(i, started)| Renewal { lease: claimed[i].lease, started });
    server.renew(1..=1, held.to_vec()).await;
    env.advance(60);
    assert_eq!(env.rescue_all().await.len(), 3);
    let mut crashes = Vec::new();
    for id in &ids {
        crashes.push(env.record(*id).await.head.crashes);
    }
    assert_eq!(crashes, [1, 1, 0]);
    // Without a renew only the first one counts.
    server.claim(3).await;
    env.advance(60);
    env.rescue_all().await;
    let mut crashes = Vec::new();
    for id in &ids {
        crashes.push(env.record(*id).await.head.crashes);
    }
    assert_eq!(crashes, [2, 1, 0]);
}

/// CLM-12: a claim that ends while it has not seen everything says so, and so the next one gets what stood
/// behind all that was passed over.
pub async fn a_claim_that_passes_over_much_says_that_there_is_more(env: Env) {
    let late = NewRecord { start_by: Some(env.after(10)), ..job() };
    let first = env.add(job()).await;
    env.add_many((0..900).map(|_| NewRecord { id: JobId::new(), ..late.clone() }).collect()).await;
    let last = env.add(job()).await;
    env.advance(10);
    let mut server = env.claimer("s").await;
    let mut taken = Vec::new();
    loop {
        server.sequence += 1;
        let request = server.request(server.sequence, 2);
        let claimed = env.storage.claim(&env.call(), &request).await.expect("claims");
        taken.extend(claimed.jobs.iter().map(|job| job.lease.job));
        if taken.len() == 2 {
            break;
        }
        assert_eq!(claimed.again_in, Some(Duration::ZERO), "after {} claims", server.sequence);
    }
    assert_eq!(taken, [first, last]);
    server.sequence += 1;
    let claimed =
        env.storage.claim(&env.call(), &server.request(server.sequence, 2)).await.expect("claims");
    assert!(claimed.jobs.is_empty(), "there is no more");
    assert_ne!(claimed.again_in, Some(Duration::ZERO), "and it has seen that");
}

/// CLM-13: a claim that took nothing tells of nothing later than the next due instant, and moves nothing.
pub async fn a_claim_in_vain_tells_of_nothing_later_than_what_is_due(env: Env) {
    let mut server = env.claimer("s").await;
    let mut told = async |env: &Env| {
        server.sequence += 1;
        let request = ClaimRequest { ..server.request(server.sequence, 2) };
        let claimed = env.storage.claim(&env.call(), &request).await.expect("claims");
        assert!(claimed.jobs.is_empty());
        claimed.again_in
    };
    let nothing = told(&env).await;
    assert_ne!(nothing, Some(Duration::ZERO), "it has seen everything");
    assert!(nothing.is_none_or(|told| told <= bounds::NOTHING_DUE), "{nothing:?}");
    let at = |delay| NewRecord { start: Start::At(env.after(delay)), ..job() };
    let late = env.add(at(60)).await;
    for (delay, wait) in [(None, 60), (Some(20), 20)] {
        if let Some(delay) = delay {
            env.add(at(delay)).await;
        }
        let told = told(&env).await;
        assert!(told.is_none_or(|told| told <= seconds(wait)), "{told:?}, and {wait} s are left");
        assert_ne!(told, Some(Duration::ZERO));
    }
    // Due and not promoted: it is no work yet, and what comes next is near.
    env.advance(90);
    let told = told(&env).await;
    assert!(told.is_none_or(|told| !told.is_zero() && told <= seconds(1)), "{told:?}");
    assert_eq!(env.state(late).await, StateName::Scheduled);
}

/// CLM-1, REN-1: a lease of no use is refused, and changes nothing.
pub async fn a_lease_of_no_use_is_refused(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lengths = [Duration::ZERO, Duration::from_millis(9), seconds(24 * 3600 + 1)];
    for lease in lengths {
        let request = ClaimRequest { lease, ..server.request(1, 1) };
        let error = env.storage.claim(&env.call(), &request).await.expect_err("is refused");
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("lease")));
    }
    assert_eq!(env.state(id).await, StateName::Enqueued);
    let held = vec![Renewal { lease: server.claim_one().await.lease, started: true }];
    let before = env.details(id).await;
    for lease in lengths {
        let request = RenewRequest {
            incarnation: server.incarnation,
            sequences: 1..=1,
            held: held.clone(),
            lease,
        };
        let error = env.storage.renew(&env.call(), &request).await.expect_err("is refused");
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("lease")));
    }
    assert_eq!(env.details(id).await, before);
}

/// CLM-1, SET-3: steps of 500 items are taken, larger ones are refused and change nothing.
pub async fn steps_of_five_hundred_items_are_taken(env: Env) {
    let max = bounds::MAX_STEP_ITEMS;
    env.add_many(jobs(max + 1)).await;
    let mut server = env.claimer("s").await;
    let error =
        env.storage.claim(&env.call(), &server.request(1, max + 1)).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let claimed = server.claim(max).await;
    assert_eq!(claimed.len(), max);
    let renewal =
        |job: &jobkit_core::storage::ClaimedJob| Renewal { lease: job.lease, started: true };
    let renewed = server.renew(1..=1, claimed.iter().map(renewal).collect()).await;
    assert!(renewed.answers.iter().all(|it| matches!(it, RenewAnswer::Renewed { .. })));
    let mut settles: Vec<Settle> =
        claimed.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    settles.push(Settle::new(claimed[0].lease, Ending::Succeeded));
    let request = SettleRequest { server: server.server.clone(), settles: settles.clone() };
    let error = env.storage.settle(&env.call(), &request).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    settles.pop();
    let answers = server.settle_all(settles).await;
    assert!(answers.iter().all(|it| *it == SettleAnswer::Settled(StateName::Succeeded)));
}
