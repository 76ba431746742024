//! `renew`.

use jobkit_core::ids::Incarnation;
use jobkit_core::record::Lease;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, RenewAnswer, Renewal, SettleAnswer};
use jobkit_core::{JobId, bounds};

use crate::fixtures::*;

/// REN-1, G5: listed leases that are held get the new expiry; others are told that they are lost.
pub async fn a_renew_extends_what_is_held_and_tells_what_is_lost(env: Env) {
    env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    server.settled(claimed[2].lease, Ending::Succeeded).await;
    env.advance(20);
    let stale = Lease { fence: 7, ..claimed[0].lease };
    let foreign = Lease { incarnation: Incarnation::new(), ..claimed[1].lease };
    let missing = Lease { job: JobId::new(), ..claimed[1].lease };
    let leases = [claimed[0].lease, claimed[2].lease, stale, claimed[1].lease, foreign, missing];
    let held = leases.map(|lease| Renewal { lease, started: true }).to_vec();
    let renewed = server.renew(1..=1, held).await;
    let expected = RenewAnswer::Renewed { expires_at: env.after(30), cancel: None };
    use RenewAnswer::Lost;
    assert_eq!(renewed.answers, [expected, Lost, Lost, expected, Lost, Lost]);
    assert!(renewed.given_back.is_empty());
    env.advance(20);
    assert!(env.expired().await.is_empty(), "the new expiry holds");
    env.advance(11);
    assert_eq!(env.expired().await.len(), 2);
}

/// REN-2, G21: jobs of the range that are not listed are given back and claimable; those outside the
/// range are not touched.
pub async fn a_renew_gives_back_what_it_does_not_list(env: Env) {
    let ids = env.add_many(jobs(6)).await;
    let mut server = env.claimer("s").await;
    let mut other = env.claimer("other").await;
    let first = server.claim(2).await;
    server.claim(1).await;
    let third = server.claim(1).await.remove(0);
    let strange = other.claim(1).await.remove(0);
    let held = vec![Renewal { lease: first[0].lease, started: true }];
    let renewed = server.renew(1..=2, held).await;
    let mut given_back = renewed.given_back.clone();
    given_back.sort_unstable();
    let mut expected = vec![ids[1], ids[2]];
    expected.sort_unstable();
    assert_eq!(given_back, expected);
    assert_eq!(
        env.states(&ids).await,
        [
            StateName::Processing,
            StateName::Enqueued,
            StateName::Enqueued,
            StateName::Processing,
            StateName::Processing,
            StateName::Enqueued,
        ]
    );
    let head = env.record(ids[1]).await.head;
    assert_eq!((head.failures, head.crashes, head.reason), (0, 0, Reason::GivenBack));
    assert_eq!(other.claim_ids(10).await, [ids[1], ids[2], ids[5]]);
    server.settled(third.lease, Ending::Succeeded).await;
    other.settled(strange.lease, Ending::Succeeded).await;
}

/// REN-2, G21: a renew gives back a bounded number of jobs, and the next ones the rest.
pub async fn a_renew_gives_back_much_in_bounded_steps(env: Env) {
    let mut ids = env.add_many(jobs(600)).await;
    let mut server = env.claimer("s").await;
    for _ in 0..3 {
        assert_eq!(server.claim(200).await.len(), 200);
    }
    let mut given_back = Vec::new();
    loop {
        let part = server.renew(1..=3, Vec::new()).await.given_back;
        assert!(part.len() <= bounds::MAX_STEP_ITEMS, "{} in one renew", part.len());
        if part.is_empty() {
            break;
        }
        given_back.extend(part);
    }
    given_back.sort_unstable();
    ids.sort_unstable();
    assert_eq!(given_back, ids, "each once");
}

/// REN-2, G5: what a renew gave back is lost to its former holder, even before anyone else claims it.
pub async fn what_a_renew_gave_back_cannot_be_settled(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(server.renew(1..=1, Vec::new()).await.given_back, [id]);
    let before = env.details(id).await;
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    assert_eq!(server.renew_one(lease).await, RenewAnswer::Lost);
    assert!(server.repeat_claim(10).await.is_empty());
    assert_eq!(env.details(id).await, before);
}

/// CLM-5, REN-5, G5, G21: a claim that was delayed on its way, and that a renew has covered, takes nothing
/// when it comes; it answers what is still held of it.
pub async fn a_claim_that_comes_after_its_renew_takes_nothing(env: Env) {
    let mut server = env.claimer("s").await;
    // A claim took nothing, was sent again since its first answer was late, and the first one is on its way.
    assert!(server.claim(10).await.is_empty());
    let [first, second, third] = env.add_many(jobs(3)).await[..] else { unreachable!() };
    let held = server.claim(1).await.remove(0).lease;
    assert_eq!(held.job, first);
    // One that never arrived until the renew.
    let late = server.sequence + 1;
    server.renew(1..=late, vec![Renewal { lease: held, started: true }]).await;
    let claim = async |sequence| {
        let claimed = env.storage.claim(&env.call(), &server.request(sequence, 10)).await;
        claimed.expect("answers").jobs.into_iter().map(|job| job.lease).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert!(claim(1).await.is_empty(), "a claim that had taken nothing");
        assert_eq!(claim(2).await, [held], "what is still held");
        assert!(claim(late).await.is_empty(), "a claim that comes for the first time");
    }
    let states = env.states(&[first, second, third]).await;
    assert_eq!(states, [StateName::Processing, StateName::Enqueued, StateName::Enqueued]);
    server.sequence = late;
    assert_eq!(server.claim_ids(10).await, [second, third], "the next claim takes them");
}

/// REN-3: a cancellation that was requested is told by the renew.
pub async fn a_renew_tells_of_a_cancellation(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    env.change(id, Action::Delete { keep: None }).await;
    for _ in 0..2 {
        let answer = server.renew_one(lease).await;
        let RenewAnswer::Renewed { cancel, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(cancel, Some(Reason::Cancelled));
    }
}

/// REN-4, RES-2: the last renewal of an attempt decides whether it counts as started, and so whether a
/// crash counts against it; also of one that counted from its claim on.
pub async fn a_renew_decides_what_counts_as_started(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await.started(1);
    let lease = server.claim_one().await.lease;
    let counts = async || match env.record(id).await.head.state {
        State::Processing(hold) => hold.started,
        other => panic!("{other:?}"),
    };
    assert!(counts().await, "from its claim on");
    for started in [false, true, false] {
        server.renew(1..=1, vec![Renewal { lease, started }]).await;
        assert_eq!(counts().await, started);
    }
    env.advance(60);
    assert_eq!(env.rescue_all().await.len(), 1);
    assert_eq!(env.record(id).await.head.crashes, 0);
}
