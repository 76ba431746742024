use super::*;
use StateName::{Awaiting, Deleted, Enqueued, Failed, Processing, Scheduled, Succeeded};

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn situation() -> Situation {
    Situation { now: NOW, retention: Retention::default(), batch_cancelled: false }
}

fn hold() -> Hold {
    Hold {
        server: crate::Name::from_stored("s"),
        incarnation: Incarnation::from_i64(1),
        claim_sequence: 1,
        claimed_at: NOW,
        expires_at: NOW.plus(SECOND),
        started: true,
        cancel: None,
    }
}

fn head(state: StateName) -> JobHead {
    let mut head = new_head(Start::Now, 0, false, Reason::Submitted, NOW);
    head.fence = 3;
    head.failures = 2;
    head.crashes = 1;
    head.state = match state {
        Awaiting => State::Awaiting { open: 1 },
        Scheduled => State::Scheduled { run_at: NOW },
        Enqueued => State::Enqueued,
        Processing => State::Processing(hold()),
        Succeeded => State::Succeeded,
        Failed => State::Failed,
        Deleted => State::Deleted,
    };
    head
}

fn events() -> Vec<(&'static str, Event)> {
    let later = NOW.plus(SECOND);
    let settle = |ending| Event::Settle(ending);
    vec![
        ("decided met", Event::Decided { met: true, otherwise: Reason::Unmeetable }),
        ("decided unmeetable", Event::Decided { met: false, otherwise: Reason::Unmeetable }),
        ("due", Event::Due),
        ("run now", Event::RunNow),
        ("reschedule", Event::Reschedule { run_at: later }),
        ("move", Event::Move),
        ("claim", Event::Claim(hold())),
        ("unreadable", Event::Unreadable),
        ("start expired", Event::StartExpired),
        ("succeed", settle(Ending::Succeeded)),
        ("retry later", settle(Ending::Retry { delay: SECOND })),
        ("retry now", settle(Ending::Retry { delay: Duration::ZERO })),
        ("fail", settle(Ending::Failed(Reason::OutOfAttempts))),
        ("snooze", settle(Ending::Snoozed { delay: SECOND })),
        ("give back", settle(Ending::GivenBack)),
        ("not listed", Event::GiveBack),
        ("give up", settle(Ending::Deleted(Reason::Cancelled))),
        ("rescue", Event::Rescue { crash_limit: 3 }),
        ("rescue at the limit", Event::Rescue { crash_limit: 2 }),
        ("delete", Event::Delete(Reason::Deleted)),
        ("requeue", Event::Requeue { run_at: None }),
        ("requeue later", Event::Requeue { run_at: Some(later) }),
    ]
}

/// Every pair of state and event that is allowed; every other one must be refused.
const ALLOWED: &[(StateName, &str, StateName)] = &[
    (Awaiting, "decided met", Enqueued),
    (Awaiting, "decided unmeetable", Deleted),
    (Awaiting, "run now", Enqueued),
    (Awaiting, "move", Awaiting),
    (Awaiting, "delete", Deleted),
    (Scheduled, "due", Enqueued),
    (Scheduled, "run now", Enqueued),
    (Scheduled, "reschedule", Scheduled),
    (Scheduled, "move", Scheduled),
    (Scheduled, "delete", Deleted),
    (Enqueued, "reschedule", Scheduled),
    (Enqueued, "move", Enqueued),
    (Enqueued, "claim", Processing),
    (Enqueued, "unreadable", Failed),
    (Enqueued, "start expired", Deleted),
    (Enqueued, "delete", Deleted),
    (Processing, "succeed", Succeeded),
    (Processing, "retry later", Scheduled),
    (Processing, "retry now", Enqueued),
    (Processing, "fail", Failed),
    (Processing, "snooze", Scheduled),
    (Processing, "give back", Enqueued),
    (Processing, "not listed", Enqueued),
    (Processing, "give up", Deleted),
    (Processing, "rescue", Enqueued),
    (Processing, "rescue at the limit", Failed),
    (Processing, "delete", Processing),
    (Succeeded, "delete", Deleted),
    (Succeeded, "requeue", Enqueued),
    (Succeeded, "requeue later", Scheduled),
    (Failed, "delete", Deleted),
    (Failed, "requeue", Enqueued),
    (Failed, "requeue later", Scheduled),
    (Deleted, "requeue", Enqueued),
    (Deleted, "requeue later", Scheduled),
];

#[test]
fn the_table_is_complete() {
    for state in StateName::ALL {
        for (name, event) in events() {
            let before = head(state);
            let expected = ALLOWED.iter().find(|(s, e, _)| (*s, *e) == (state, name));
            match (apply(&before, &event, &situation()), expected) {
                (Ok(step), Some((_, _, to))) => {
                    assert_eq!(step.head.state.name(), *to, "{state}, {name}");
                    assert_eq!(step.from, state);
                    assert_eq!(step.head.version, before.version + 1, "{state}, {name}");
                }
                (Err(refused), None) => assert_eq!(refused, Forbidden::State(state)),
                (got, expected) => panic!("{state}, {name}: {got:?}, expected {expected:?}"),
            }
        }
    }
}

#[test]
fn what_holds_for_every_allowed_step() {
    for (state, name, to) in ALLOWED {
        let before = head(*state);
        let event = events().into_iter().find(|(n, _)| n == name).expect("listed").1;
        let step = apply(&before, &event, &situation()).expect("allowed");
        // The fence grows with claims alone.
        assert_eq!(step.head.fence, before.fence + u64::from(*name == "claim"), "{state}, {name}");
        // Slots are freed exactly when a lease ends.
        assert_eq!(step.effects.frees_slots, *state == Processing && *to != Processing);
        // A key is freed exactly by a finish, and taken only by a requeue.
        assert_eq!(step.effects.frees_key, to.is_finished(), "{state}, {name}");
        assert_eq!(step.effects.takes_key, name.starts_with("requeue"));
        assert_eq!(step.effects.finished, Finish::of(*to), "{state}, {name}");
        assert_eq!(step.effects.reopened, Finish::of(*state), "{state}, {name}");
        assert_eq!(step.effects.claimable, *to == Enqueued, "{state}, {name}");
        if to.is_finished() {
            assert!(matches!(step.effects.expires_at, Some(Some(_))), "{state}, {name}");
        }
    }
}

#[test]
fn counters_are_never_mixed() {
    let settle = |ending| {
        apply(&head(Processing), &Event::Settle(ending), &situation()).expect("allowed").head
    };
    assert_eq!(settle(Ending::Retry { delay: SECOND }).failures, 3);
    assert_eq!(settle(Ending::Failed(Reason::Permanent)).failures, 3);
    for ending in [Ending::Succeeded, Ending::GivenBack, Ending::Snoozed { delay: SECOND }] {
        let after = settle(ending);
        assert_eq!((after.failures, after.crashes, after.run), (2, 1, 0), "{ending:?}");
        assert_eq!(after.settled, Some((3, Incarnation::from_i64(1))));
    }
    let requeued =
        apply(&head(Failed), &Event::Requeue { run_at: None }, &situation()).expect("allowed").head;
    assert_eq!((requeued.failures, requeued.crashes, requeued.run, requeued.fence), (0, 0, 1, 3));
}

#[test]
fn only_started_attempts_count_a_crash() {
    let mut before = head(Processing);
    before.state = State::Processing(Hold { started: false, ..hold() });
    let step = apply(&before, &Event::Rescue { crash_limit: 1 }, &situation()).expect("allowed");
    assert_eq!((step.head.crashes, step.head.state.name()), (1, Enqueued));
}

#[test]
fn success_wins_over_a_cancellation_and_nothing_else_does() {
    let mut before = head(Processing);
    before.state = State::Processing(Hold { cancel: Some(Reason::Cancelled), ..hold() });
    let to =
        |event: Event| apply(&before, &event, &situation()).expect("allowed").head.state.name();
    assert_eq!(to(Event::Settle(Ending::Succeeded)), Succeeded);
    for ending in [
        Ending::Retry { delay: SECOND },
        Ending::Failed(Reason::Permanent),
        Ending::Snoozed { delay: SECOND },
        Ending::GivenBack,
    ] {
        assert_eq!(to(Event::Settle(ending)), Deleted, "{ending:?}");
    }
    assert_eq!(to(Event::Rescue { crash_limit: 9 }), Deleted);
    let again = apply(&before, &Event::Delete(Reason::Deleted), &situation());
    assert_eq!(again, Err(Forbidden::AlreadyCancelling));
}

#[test]
fn a_cancelled_batch_ends_its_members() {
    let at = Situation { batch_cancelled: true, ..situation() };
    let settle = Event::Settle(Ending::Retry { delay: SECOND });
    let step = apply(&head(Processing), &settle, &at).expect("allowed");
    assert_eq!((step.head.state.name(), step.head.reason), (Deleted, Reason::BatchCancelled));
    let requeue = apply(&head(Failed), &Event::Requeue { run_at: None }, &at);
    assert_eq!(requeue, Err(Forbidden::BatchCancelled));
}

#[test]
fn a_child_is_released_by_its_last_parent() {
    let mut child = head(Awaiting);
    child.state = State::Awaiting { open: 2 };
    child.start = Start::After(SECOND);
    let met = Event::Decided { met: true, otherwise: Reason::Unmeetable };
    let first = apply(&child, &met, &situation()).expect("allowed");
    assert_eq!(first.head.state, State::Awaiting { open: 1 });
    assert!(!first.effects.history);
    let last = apply(&first.head, &met, &situation()).expect("allowed");
    assert_eq!(last.head.state, State::Scheduled { run_at: NOW.plus(SECOND) });
}

#[test]
fn new_jobs_start_where_their_options_say() {
    let state = |start, open| new_head(start, open, false, Reason::Submitted, NOW).state;
    assert_eq!(state(Start::Now, 0), State::Enqueued);
    assert_eq!(state(Start::At(NOW), 0), State::Enqueued);
    assert_eq!(state(Start::After(SECOND), 0), State::Scheduled { run_at: NOW.plus(SECOND) });
    assert_eq!(state(Start::Now, 2), State::Awaiting { open: 2 });
    assert_eq!(new_unmeetable_head(Start::Now, NOW).state, State::Deleted);
}
