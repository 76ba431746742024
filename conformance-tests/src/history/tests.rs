//! For each predicate the smallest history that it refuses, and its good twin.

use std::time::Duration;

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{BatchCounts, On};

use super::*;

const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// A job with an id of that instant.
fn job(number: u8) -> JobId {
    let mut bytes = [0; 16];
    let millis = u64::try_from(START.as_millis()).expect("after 1970");
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    (bytes[6], bytes[8], bytes[15]) = (0x70, 0x80, number);
    JobId::from_bytes(bytes)
}

fn batch_id() -> BatchId {
    BatchId::from_key("b")
}

fn name(name: &str) -> Name {
    Name::new("name", name).expect("a fine name")
}

fn life(number: i64) -> Incarnation {
    Incarnation::from_i64(number)
}

/// Commits of facts, a second apart.
fn history(commits: impl IntoIterator<Item = Vec<Fact>>) -> History {
    let mut history = History::default();
    for (s, facts) in (1..).zip(commits) {
        for fact in facts {
            history.push(s, START.plus(Duration::from_secs(s)), fact);
        }
    }
    history
}

fn create_as(number: u8, to: StateName) -> Fact {
    let place = Place {
        queue: Name::default_queue(),
        kind: name("k"),
        rank: (4, number.into()),
        conditional: false,
    };
    Fact::Create { job: job(number), submission: number.into(), to, place }
}

fn create(number: u8) -> Fact {
    create_as(number, StateName::Enqueued)
}

fn step(number: u8, to: StateName, reason: Reason) -> Fact {
    Fact::Step { job: job(number), to, reason, run: 0 }
}

fn claim(number: u8, fence: u64, by: i64, call: u64) -> Vec<Fact> {
    vec![
        Fact::Asked { queues: vec![Name::default_queue()], kinds: vec![name("k")] },
        step(number, StateName::Processing, Reason::Claimed),
        Fact::Claim { job: job(number), fence, life: life(by), call },
    ]
}

fn end(number: u8, fence: u64, to: StateName, reason: Reason) -> Vec<Fact> {
    vec![Fact::End { job: job(number), fence }, step(number, to, reason)]
}

fn done(number: u8, fence: u64) -> Vec<Fact> {
    end(number, fence, StateName::Succeeded, Reason::Done)
}

fn edge(child: u8, parent: u8, on: On) -> Fact {
    Fact::Edge { child: job(child), edge: Edge { parent: Parent::Job(job(parent)), on } }
}

fn decided(child: u8, parent: u8) -> Fact {
    Fact::Decided { child: job(child), parent: Parent::Job(job(parent)) }
}

fn batch(total: u64, succeeded: u64, completed: bool) -> Fact {
    Fact::Batch(Box::new(BatchRecord {
        id: batch_id(),
        name: "b".into(),
        parent: None,
        counts: BatchCounts { total, succeeded, ..BatchCounts::default() },
        created_at: START,
        attached_at: START,
        started_at: Some(START),
        completed_at: completed.then_some(START),
        succeeded_at: None,
        cancelled_at: None,
    }))
}

fn together(parts: impl IntoIterator<Item = Vec<Fact>>) -> Vec<Fact> {
    parts.into_iter().flatten().collect()
}

#[track_caller]
fn tells(holds: fn(&History) -> Checked, bad: Vec<Vec<Fact>>, good: Vec<Vec<Fact>>) {
    let bad = holds(&history(bad));
    assert!(bad.is_err(), "the bad history passes");
    let good = history(good);
    assert_eq!(holds(&good), Ok(()));
    assert_eq!(good.check(), [], "the good one passes everything");
}

#[test]
fn g1_what_was_told_is_stored() {
    tells(
        g1_durable,
        vec![vec![Fact::Told(job(1))]],
        vec![vec![create(1)], vec![Fact::Told(job(1))]],
    );
}

#[test]
fn g1_states_follow_each_other() {
    let deleted = || step(1, StateName::Deleted, Reason::Deleted);
    tells(
        g1_durable,
        vec![vec![create(1)], vec![deleted()], vec![step(1, StateName::Enqueued, Reason::Due)]],
        vec![
            vec![create(1)],
            vec![deleted()],
            vec![step(1, StateName::Enqueued, Reason::Requeued)],
        ],
    );
}

#[test]
fn g2_an_id_is_stored_once() {
    tells(
        g2_submitted_once,
        vec![vec![create(1)], vec![create(1)]],
        vec![vec![create(1)], vec![create(2)]],
    );
}

#[test]
fn g2_an_old_id_is_not_stored() {
    let late = |after: u64| {
        let mut history = History::default();
        history.push(1, START.plus(Duration::from_secs(after)), create(1));
        g2_submitted_once(&history)
    };
    assert!(late(3601).is_err());
    assert_eq!(late(3599), Ok(()));
}

#[test]
fn g3_a_submission_is_one_commit() {
    let create = |number| match create(number) {
        Fact::Create { job, to, place, .. } => Fact::Create { job, submission: 7, to, place },
        other => other,
    };
    tells(
        g3_atomic_submit,
        vec![vec![create(1)], vec![create(2)]],
        vec![vec![create(1), create(2)]],
    );
}

#[test]
fn g20_what_is_refused_leaves_nothing() {
    tells(
        g3_atomic_submit,
        vec![vec![Fact::Refused(job(1)), create(1)]],
        vec![vec![Fact::Refused(job(1))], vec![create(1)]],
    );
}

#[test]
fn g4_a_lease_excludes() {
    tells(
        g4_one_lease,
        vec![vec![create(1)], claim(1, 1, 1, 1), claim(1, 2, 2, 1)],
        vec![
            vec![create(1)],
            claim(1, 1, 1, 1),
            end(1, 1, StateName::Enqueued, Reason::GivenBack),
            claim(1, 2, 2, 1),
        ],
    );
}

#[test]
fn g4_fences_grow() {
    let given_back = || end(1, 1, StateName::Enqueued, Reason::GivenBack);
    tells(
        g4_one_lease,
        vec![vec![create(1)], claim(1, 1, 1, 1), given_back(), claim(1, 1, 1, 2)],
        vec![vec![create(1)], claim(1, 1, 1, 1), given_back(), claim(1, 2, 1, 2)],
    );
}

#[test]
fn g4_a_repeated_claim_takes_nothing_more() {
    tells(
        g4_one_lease,
        vec![vec![create(1), create(2)], claim(1, 1, 1, 1), claim(2, 1, 1, 1)],
        vec![vec![create(1), create(2)], claim(1, 1, 1, 1), claim(2, 1, 1, 2)],
    );
}

#[test]
fn g4_a_life_that_was_forgotten_may_count_anew() {
    let claims =
        |between| vec![vec![create(1), create(2)], claim(1, 1, 1, 1), between, claim(2, 1, 1, 1)];
    let forgotten = |by| vec![Fact::Forgotten(life(by))];
    tells(g4_one_lease, claims(forgotten(2)), claims(forgotten(1)));
}

#[test]
fn g4_a_rescue_takes_a_second_look() {
    let rescued = || {
        together([
            vec![Fact::Rescued { job: job(1), fence: 1 }],
            end(1, 1, StateName::Enqueued, Reason::Rescued),
        ])
    };
    let seen = || vec![Fact::SeenExpired { job: job(1), fence: 1 }];
    tells(
        g4_one_lease,
        vec![vec![create(1)], claim(1, 1, 1, 1), together([rescued(), seen()])],
        vec![vec![create(1)], claim(1, 1, 1, 1), seen(), rescued()],
    );
}

#[test]
fn g5_only_the_holder_writes() {
    let write = |fence, by| Fact::Write { job: job(1), fence, life: life(by) };
    tells(
        g5_fenced,
        vec![vec![create(1)], claim(1, 1, 1, 1), vec![write(1, 2)]],
        vec![vec![create(1)], claim(1, 1, 1, 1), vec![write(1, 1)]],
    );
}

#[test]
fn g5_only_what_is_listed_is_extended() {
    let extended = || Fact::Extended { job: job(1), fence: 1 };
    let write = || Fact::Write { job: job(1), fence: 1, life: life(1) };
    tells(
        g5_fenced,
        vec![vec![create(1)], claim(1, 1, 1, 1), vec![extended()]],
        vec![vec![create(1)], claim(1, 1, 1, 1), vec![write(), extended()]],
    );
}

#[test]
fn g6_an_attempt_ends_once() {
    tells(
        g6_ends_once,
        vec![
            vec![create(1)],
            claim(1, 1, 1, 1),
            end(1, 1, StateName::Enqueued, Reason::Retry),
            done(1, 1),
        ],
        vec![vec![create(1)], claim(1, 1, 1, 1), done(1, 1)],
    );
}

#[test]
fn g6_a_handler_starts_after_its_claim() {
    let started = || vec![Fact::Started { job: job(1), fence: 1 }];
    tells(
        g6_ends_once,
        vec![vec![create(1)], started()],
        vec![vec![create(1)], claim(1, 1, 1, 1), started()],
    );
}

#[test]
fn g6_what_was_asked_to_stop_does_not_run_again() {
    let asked = || vec![Fact::CancelAsked { job: job(1), fence: 1 }];
    tells(
        g6_ends_once,
        vec![
            vec![create(1)],
            claim(1, 1, 1, 1),
            asked(),
            end(1, 1, StateName::Enqueued, Reason::Rescued),
        ],
        vec![
            vec![create(1)],
            claim(1, 1, 1, 1),
            asked(),
            end(1, 1, StateName::Deleted, Reason::Cancelled),
        ],
    );
}

fn family() -> Vec<Fact> {
    vec![create(1), create_as(2, StateName::Awaiting), edge(2, 1, On::Success)]
}

fn released() -> Vec<Fact> {
    vec![decided(2, 1), step(2, StateName::Enqueued, Reason::Released)]
}

#[test]
fn g7_children_are_decided_with_their_parent() {
    tells(
        g7_together,
        vec![family(), claim(1, 1, 1, 1), done(1, 1), released()],
        vec![family(), claim(1, 1, 1, 1), together([done(1, 1), released()])],
    );
}

#[test]
fn g8_an_edge_is_decided_once() {
    tells(
        g8_decided_once,
        vec![family(), claim(1, 1, 1, 1), together([done(1, 1), released(), released()])],
        vec![family(), claim(1, 1, 1, 1), together([done(1, 1), released()])],
    );
}

#[test]
fn g8_a_child_waits_for_all_of_its_parents() {
    let two = || together([family(), vec![create(3), edge(2, 3, On::Success)]]);
    tells(
        g8_decided_once,
        vec![two(), claim(1, 1, 1, 1), together([done(1, 1), released()])],
        vec![two(), claim(1, 1, 1, 1), together([done(1, 1), vec![decided(2, 1)]])],
    );
}

#[test]
fn g8_no_decidable_edge_is_left() {
    let failed = || end(1, 1, StateName::Failed, Reason::Permanent);
    tells(
        g8_decided_once,
        vec![family(), claim(1, 1, 1, 1), done(1, 1), vec![Fact::Quiet]],
        vec![family(), claim(1, 1, 1, 1), failed(), vec![Fact::Quiet]],
    );
}

#[test]
fn a_failed_member_that_goes_decides_what_waits_for_the_success_of_its_batch() {
    let parent = Parent::Batch(batch_id());
    let member = Fact::Member { job: job(1), batch: batch_id() };
    let edge = Fact::Edge { child: job(2), edge: Edge { parent, on: On::Success } };
    let counts = |lost| {
        let Fact::Batch(mut record) = batch(1, 0, true) else { unreachable!("it is a batch") };
        (record.counts.failed, record.counts.lost) = (1, lost);
        Fact::Batch(record)
    };
    let before = vec![
        vec![create(1), member, create_as(2, StateName::Awaiting), edge, batch(1, 0, false)],
        claim(1, 1, 1, 1),
        together([end(1, 1, StateName::Failed, Reason::Permanent), vec![counts(false)]]),
    ];
    let gone = Fact::Gone { job: job(1), expires_at: Some(START) };
    let decided = vec![
        counts(true),
        Fact::Decided { child: job(2), parent },
        step(2, StateName::Deleted, Reason::Unmeetable),
    ];
    // Whether or not the storage says so in the batch.
    let then = |facts: Vec<Fact>| [before.clone(), vec![facts, vec![Fact::Quiet]]].concat();
    let good = || then(together([vec![gone.clone()], decided.clone()]));
    tells(g7_together, then(vec![gone.clone()]), good());
    tells(g8_decided_once, then(vec![gone.clone()]), good());
}

#[test]
fn g9_a_batch_counts_its_members() {
    let filled = || {
        let member = |number| Fact::Member { job: job(number), batch: batch_id() };
        vec![create(1), member(1), create(2), member(2), batch(2, 0, false)]
    };
    tells(
        g9_batch_counts,
        vec![filled(), claim(1, 1, 1, 1), done(1, 1)],
        vec![filled(), claim(1, 1, 1, 1), together([done(1, 1), vec![batch(2, 1, false)]])],
    );
}

#[test]
fn g9_a_batch_completes_with_its_last_member() {
    let filled =
        || vec![create(1), Fact::Member { job: job(1), batch: batch_id() }, batch(1, 0, false)];
    let ends = |completed| together([done(1, 1), vec![batch(1, 1, completed)]]);
    tells(
        g9_batch_counts,
        vec![filled(), claim(1, 1, 1, 1), ends(false)],
        vec![filled(), claim(1, 1, 1, 1), ends(true)],
    );
}

#[test]
fn g10_an_occurrence_comes_once_and_none_is_left_out() {
    let fired = |after: u64| {
        let nominal_at = START.plus(Duration::from_secs(after));
        vec![Fact::Fired { id: "r".into(), nominal_at }]
    };
    let schedule = || vec![Fact::Schedule { id: "r".into(), every: Duration::from_secs(60) }];
    let good = || vec![schedule(), fired(60), fired(120)];
    tells(g10_one_job_per_occurrence, vec![schedule(), fired(60), fired(60)], good());
    tells(g10_one_job_per_occurrence, vec![schedule(), fired(60), fired(180)], good());
    // The clock went ahead by an hour and back: what was skipped meanwhile is fired, what was fired is not.
    let skipped = |from: u64, through: u64| {
        let at = |after| START.plus(Duration::from_secs(after));
        vec![Fact::Skipped { id: "r".into(), from: at(from), through: at(through) }]
    };
    let ahead = || vec![schedule(), fired(60), skipped(120, 3540), fired(3600)];
    let back = |last: Vec<Fact>| {
        let mut history = history([ahead(), vec![last]].concat());
        if let Some(event) = history.events.last_mut() {
            event.at = START;
        }
        g10_one_job_per_occurrence(&history)
    };
    assert_eq!(back(fired(120)), Ok(()));
    assert!(back(fired(3600)).is_err() && back(fired(60)).is_err());
    assert!(g10_one_job_per_occurrence(&history([ahead(), vec![fired(120)]].concat())).is_err());
    // One was on its way when the clock went back, and the schedule was set anew after it.
    let late = |last: Vec<Vec<Fact>>| {
        let mut history = history([ahead(), vec![fired(3660)], last].concat());
        let after = history.events.iter().position(|event| event.fact == fired(3660)[0]);
        history.events[after.expect("it is there")..].iter_mut().for_each(|event| event.at = START);
        g10_one_job_per_occurrence(&history)
    };
    assert_eq!(late(vec![fired(120)]), Ok(()));
    assert!(late(vec![fired(3600)]).is_err() && late(vec![fired(3660)]).is_err());
}

#[test]
fn g11_a_key_has_one_holder() {
    let key = || "k".to_owned();
    let taken = |number| Fact::KeyTaken { job: job(number), key: key() };
    let freed = |number| Fact::KeyFreed { job: job(number), key: key() };
    let held = |number| Fact::KeyHeldBy { job: job(number), key: key() };
    tells(
        g11_unique,
        vec![vec![create(1), taken(1)], vec![create(2), taken(2)]],
        vec![
            vec![create(1), taken(1)],
            vec![step(1, StateName::Deleted, Reason::Deleted), freed(1)],
            vec![create(2), taken(2)],
        ],
    );
    tells(
        g11_unique,
        vec![vec![create(1), taken(1)], vec![held(2)]],
        vec![vec![create(1), taken(1)], vec![held(1)]],
    );
}

#[test]
fn g12_a_lock_has_one_owner() {
    let locked = |by, generation, until: u64| Fact::Locked {
        name: "l".into(),
        owner: life(by),
        generation,
        until: START.plus(Duration::from_secs(until)),
    };
    let good = || vec![vec![locked(1, 1, 2)], vec![locked(2, 2, 9)]];
    tells(g12_locks_exclude, vec![vec![locked(1, 1, 9)], vec![locked(2, 2, 9)]], good());
    tells(g12_locks_exclude, vec![vec![locked(1, 1, 2)], vec![locked(2, 1, 9)]], good());
}

#[test]
fn g13_no_more_run_than_the_limit_says() {
    let limit = |used| Fact::Limit { name: "l".into(), max: 1, used };
    let limited = |number| Fact::Limited { job: job(number), limit: "l".into() };
    let both = || vec![create(1), limited(1), create(2), limited(2), limit(0)];
    let good = || {
        vec![
            both(),
            together([claim(1, 1, 1, 1), vec![limit(1)]]),
            together([done(1, 1), claim(2, 1, 1, 2)]),
        ]
    };
    let two = || {
        vec![
            both(),
            together([claim(1, 1, 1, 1), vec![limit(1)]]),
            together([claim(2, 1, 1, 2), vec![limit(2)]]),
        ]
    };
    tells(g13_limits_hold, two(), good());
    // The slot stays taken though nobody runs.
    let kept = vec![both(), together([claim(1, 1, 1, 1), vec![limit(1)]]), done(1, 1)];
    tells(g13_limits_hold, kept, good());
}

#[test]
fn g14_the_first_in_line_goes_first() {
    tells(
        g14_ordered,
        vec![vec![create(1), create(2)], claim(2, 1, 1, 1)],
        vec![vec![create(1), create(2)], claim(1, 1, 1, 1)],
    );
}

#[test]
fn g15_what_is_paused_rests() {
    let queue = || PauseTarget::Queue(Name::default_queue());
    let paused = || vec![Fact::Paused(queue())];
    tells(
        g15_paused_yields_nothing,
        vec![vec![create(1)], paused(), claim(1, 1, 1, 1)],
        vec![vec![create(1)], paused(), vec![Fact::Resumed(queue())], claim(1, 1, 1, 1)],
    );
}

#[test]
fn g16_nothing_claimable_is_left() {
    tells(
        g16_noticed,
        vec![vec![create(1)], vec![Fact::Quiet]],
        vec![vec![create(1)], claim(1, 1, 1, 1), done(1, 1), vec![Fact::Quiet]],
    );
}

#[test]
fn g17_a_history_tells_what_happened() {
    use StateName::{Enqueued, Processing, Succeeded};
    let recorded =
        |kept: &[StateName]| vec![Fact::Recorded { job: job(1), dropped: 0, kept: kept.to_vec() }];
    tells(
        g17_history_is_true,
        vec![vec![create(1)], claim(1, 1, 1, 1), done(1, 1), recorded(&[Enqueued, Succeeded])],
        vec![
            vec![create(1)],
            claim(1, 1, 1, 1),
            done(1, 1),
            recorded(&[Enqueued, Processing, Succeeded]),
        ],
    );
}

#[test]
fn g18_what_is_counted_is_what_happened() {
    let counted = |enqueued| {
        vec![Fact::Totals([0, 0, enqueued, 0, 0, 0, 0]), Fact::Standing([0, 0, 1, 0, 0, 0, 0])]
    };
    tells(g18_totals_add_up, vec![vec![create(1)], counted(2)], vec![vec![create(1)], counted(1)]);
    let nobody = vec![Fact::Standing([0; 7])];
    tells(g18_totals_add_up, vec![vec![create(1)], nobody], vec![vec![create(1)], counted(1)]);
}

#[test]
fn g19_only_what_expired_goes() {
    let gone = |after: u64| {
        let expires_at = Some(START.plus(Duration::from_secs(after)));
        vec![Fact::Gone { job: job(1), expires_at }]
    };
    let deleted = || vec![step(1, StateName::Deleted, Reason::Deleted)];
    let good = || vec![vec![create(1)], deleted(), gone(2)];
    tells(g19_retention, vec![vec![create(1)], deleted(), gone(60)], good());
    tells(g19_retention, vec![vec![create(1)], gone(0)], good());
}
