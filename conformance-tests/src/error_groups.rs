//! Failures by their fingerprint.

use std::time::Duration;

use jobkit_core::JobId;
use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::{ErrorDetail, Fingerprint};
use jobkit_core::record::Lease;
use jobkit_core::recurring::Pause;
use jobkit_core::state::Reason;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, ChangeOutcome, ErrorQuery, Settle, SettleAnswer};

use crate::fixtures::*;

const FOR_GOOD: Ending = Ending::Failed(Reason::Permanent);

/// What is counted by now; a storage may add it up as late as in a sweep.
async fn find(env: &Env, query: ErrorQuery) -> Vec<ErrorGroup> {
    env.sweep().await;
    env.storage.error_groups(&query).await.expect("lists")
}

async fn groups(env: &Env) -> Vec<ErrorGroup> {
    find(env, ErrorQuery::default()).await
}

fn messages(groups: &[ErrorGroup]) -> Vec<&str> {
    groups.iter().map(|group| group.message.as_str()).collect()
}

fn failed(lease: Lease, ending: Ending, message: &str) -> Settle {
    let mut settle = Settle::new(lease, ending);
    settle.error = Some(ErrorDetail::new("k", "SmtpError", message, [], None));
    settle
}

/// Runs the next job to an end with an error.
async fn fail(server: &mut Claimer, ending: Ending, message: &str) -> JobId {
    let lease = server.claim_one().await.lease;
    server.settle_with(failed(lease, ending, message)).await;
    lease.job
}

/// MON-10, SWP-5, G18: every attempt with an error is counted once in its group, whether it is repeated or
/// not; a repeated settle and one that lost its lease are not, however often it is swept.
pub async fn failures_are_counted_in_their_group(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(jobs(4)).await;
    let began = env.now();
    fail(&mut server, RETRY_NOW, "timed out after 3 s").await;
    fail(&mut server, RETRY_NOW, "timed out after 4 s").await;
    env.advance(3 * 3600);
    let last = fail(&mut server, FOR_GOOD, "timed out after 5 s").await;
    let lease = server.claim_one().await.lease;
    let other = failed(lease, FOR_GOOD, "no such mailbox");
    server.settle_with(other.clone()).await;
    assert_eq!(server.settle_with(other.clone()).await, SettleAnswer::AlreadyApplied);
    env.requeue(lease.job).await;
    server.claim(10).await;
    assert_eq!(server.settle_with(other).await, SettleAnswer::LeaseLost);

    let swept = groups(&env).await;
    let mut groups = groups(&env.second().await).await;
    assert_eq!(groups, swept, "another sweep adds nothing");
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    assert_eq!(groups.len(), 2);
    let group = &groups[0];
    assert_eq!((group.count, &*group.kind, &*group.error_type), (3, "k", "SmtpError"));
    assert_eq!(group.title, "timed out after ‹n› s");
    assert_eq!(group.message, "timed out after 5 s");
    assert_eq!((group.first_seen_at, group.last_seen_at), (began, env.now()));
    assert_eq!(group.last_job, last);
    assert_eq!(group.trend(5, env.now()), [0, 2, 0, 0, 1]);
    assert_eq!((groups[1].count, groups[1].message.as_str()), (1, "no such mailbox"));
}

/// MON-11: an attempt whose job became Deleted is in no group, be it cancelled or given up by a filter, nor is one
/// that snoozed; their errors are kept with the jobs.
pub async fn what_was_asked_to_stop_is_in_no_group(env: Env) {
    let mut server = env.claimer("s").await;
    let [retries, fails, obeys, snoozes, given_up] = ["b", "c", "d", "e", "f"];
    let endings = [
        (retries, RETRY_NOW),
        (fails, FOR_GOOD),
        (obeys, Ending::Deleted(Reason::Cancelled)),
        (snoozes, Ending::Snoozed { delay: Duration::from_secs(60) }),
        (given_up, Ending::Deleted(Reason::Skipped)),
        ("g", FOR_GOOD),
    ];
    for (message, ending) in endings {
        env.add(job()).await;
        let lease = server.claim_one().await.lease;
        if [retries, fails, obeys].contains(&message) {
            let asked = env.change(lease.job, Action::Delete { keep: None }).await;
            assert_eq!(asked, ChangeOutcome::Cancelling);
        }
        server.settle_with(failed(lease, ending, message)).await;
        let details = env.details(lease.job).await;
        assert_eq!(details.errors.len(), 1, "{message}: it is kept with the job");
    }
    assert_eq!(messages(&groups(&env).await), ["g"]);
}

/// MON-10: groups are listed by their last failure, and found by kind, time and fingerprint.
pub async fn error_groups_are_found(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(jobs(3)).await;
    let mut seen = Vec::new();
    for message in ["a", "b", "c"] {
        env.advance(60);
        fail(&mut server, FOR_GOOD, message).await;
        seen.push(env.now());
    }
    let all = groups(&env).await;
    assert_eq!(messages(&all), ["c", "b", "a"]);
    let since = ErrorQuery { since: Some(seen[1]), ..ErrorQuery::default() };
    assert_eq!(messages(&find(&env, since).await), ["c", "b"]);
    let one = ErrorQuery { fingerprint: Some(all[1].fingerprint), ..ErrorQuery::default() };
    assert_eq!(messages(&find(&env, one).await), ["b"]);
    let other = ErrorQuery { kind: Some(name("x")), ..ErrorQuery::default() };
    assert!(find(&env, other).await.is_empty());
}

/// OPS-10: a mute tells who, why and until when, and its failures are counted all the same.
pub async fn a_muted_group_is_still_counted(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(jobs(2)).await;
    fail(&mut server, FOR_GOOD, "a").await;
    let fingerprint = groups(&env).await[0].fingerprint;
    let mute = Pause { until: Some(env.after(60)), ..Pause::new("ada", "known") };
    let muted = env.storage.mute(&env.call(), fingerprint, Some(&mute)).await;
    assert!(muted.expect("mutes"));
    fail(&mut server, FOR_GOOD, "a").await;
    let group = groups(&env).await.remove(0);
    assert_eq!(group.mute, Some(Pause { since: env.now(), ..mute }));
    assert_eq!(group.count, 2);
    assert!(group.is_muted(env.now()) && !group.is_muted(env.after(60)));
    assert!(env.storage.mute(&env.call(), fingerprint, None).await.expect("unmutes"));
    assert_eq!(groups(&env).await[0].mute, None);
    let unknown = Fingerprint(fingerprint.0 ^ 1);
    assert!(!env.storage.mute(&env.call(), unknown, None).await.expect("answers"));
}

/// MON-10: a group is forgotten 30 days after its last failure, and no earlier.
pub async fn error_groups_are_forgotten(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(jobs(2)).await;
    fail(&mut server, FOR_GOOD, "a").await;
    env.advance(24 * 3600);
    fail(&mut server, FOR_GOOD, "b").await;
    env.advance(29 * 24 * 3600 + 1);
    env.purge().await;
    assert_eq!(messages(&groups(&env).await), ["b"]);
}

/// MON-10: at most a thousand groups are kept; the one that was seen longest ago goes.
pub async fn the_oldest_of_too_many_groups_goes(env: Env) {
    let mut server = env.claimer("s").await;
    env.add(job()).await;
    fail(&mut server, FOR_GOOD, "the oldest").await;
    env.advance(1);
    for round in 0..10 {
        env.add_many(jobs(100)).await;
        let claimed = server.claim(100).await.into_iter().enumerate();
        let settles = claimed.map(|(i, job)| {
            // Without digits, since those are taken out of a message.
            let letters = [round, i / 10, i % 10]
                .map(|digit| ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][digit]);
            failed(job.lease, FOR_GOOD, &letters.concat())
        });
        server.settle_all(settles.collect()).await;
    }
    let groups = groups(&env).await;
    assert_eq!(groups.len(), 1_000);
    assert!(!messages(&groups).contains(&"the oldest"));
}
