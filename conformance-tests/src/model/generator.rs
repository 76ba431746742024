//! How sequences are made, by chance and towards the simplest first: what stands first, and is smaller,
//! is what a failure shrinks to.

use std::time::Duration;

use jobkit_core::edge::On;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::Level;
use jobkit_core::unique::{OnConflict, Until};
use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy};
use proptest::sample::select;
use proptest::strategy::Union;

use super::operation::{
    ActionPlan, BatchPlan, ChangePlan, ClaimPlan, GuardPlan, JobPlan, Look, Operation, ParentPlan,
    SettlePlan, StartPlan, Step, SubmissionPlan, WindowPlan,
};

/// Sequences of this many steps, of what a storage of this level has.
pub(super) fn sequences(level: Level, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..2_usize, weighted(0.06), operation(level));
    let step = step.prop_map(|(client, lost, operation)| Step { client, lost, operation });
    vec(step, steps)
}

fn seconds(of: &'static [u64]) -> impl Strategy<Value = Duration> + Clone {
    select(of).prop_map(Duration::from_secs)
}

fn operation(level: Level) -> BoxedStrategy<Operation> {
    let standard = level >= Level::Standard;
    let server = 0..2_usize;
    let of_life = (0..2_usize, 0..2_usize);
    let mut all: Vec<(u32, BoxedStrategy<Operation>)> = vec![
        (14, seconds(&[1, 1, 12, 12, 12, 40, 40, 5000]).prop_map(Operation::Wait).boxed()),
        (6, (0..4_usize).prop_map(Operation::Repeat).boxed()),
        (20, vec(submission(), 1..4).prop_map(Operation::Submit).boxed()),
        (16, claim().prop_map(Operation::Claim).boxed()),
        (16, vec(settle(), 1..5).prop_map(Operation::Settle).boxed()),
        (
            4,
            (vec(settle(), 0..4), claim())
                .prop_map(|(settles, claim)| Operation::SettleAndClaim(settles, claim))
                .boxed(),
        ),
        (
            4,
            (server.clone(), low_bits(), low_bits(), weighted(0.3))
                .prop_map(|(server, left_out, started, past)| Operation::Renew {
                    server,
                    left_out,
                    started,
                    past,
                })
                .boxed(),
        ),
        (4, Just(Operation::Promote).boxed()),
        (2, Just(Operation::Sweep).boxed()),
        (2, Just(Operation::Purge).boxed()),
        (6, Just(Operation::Rescue).boxed()),
        (
            12,
            (vec(change(), 1..3), weighted(0.5))
                .prop_map(|(changes, named)| Operation::Change(changes, named))
                .boxed(),
        ),
        (
            2,
            (of_life.clone(), seconds(&[1, 30, 600]))
                .prop_map(|((lock, owner), length)| Operation::Acquire { lock, owner, length })
                .boxed(),
        ),
        (1, of_life.clone().prop_map(|(lock, owner)| Operation::RenewLock { lock, owner }).boxed()),
        (1, of_life.prop_map(|(lock, owner)| Operation::Release { lock, owner }).boxed()),
        (
            3,
            (server.clone(), weighted(0.3), 1..3_usize, 1..4_usize)
                .prop_map(|(server, reborn, queues, kinds)| Operation::Announce {
                    server,
                    reborn,
                    queues,
                    kinds,
                })
                .boxed(),
        ),
        (
            2,
            (server.clone(), 0..5_u32)
                .prop_map(|(server, busy)| Operation::Heartbeat { server, busy })
                .boxed(),
        ),
        (
            1,
            (server, low_bits())
                .prop_map(|(server, running)| Operation::Goodbye { server, running })
                .boxed(),
        ),
        (1, seconds(&[10, 60, 6000]).prop_map(Operation::RemoveDead).boxed()),
    ];
    if standard {
        all.extend(standard_operations());
    }
    if level >= Level::Full {
        let target = 0..5_usize;
        let length = option::of(seconds(&[20, 60]));
        let pause = (target.clone(), length)
            .prop_map(|(target, length)| Operation::Pause { target, length });
        all.push((3, pause.boxed()));
        all.push((4, target.prop_map(|target| Operation::Resume { target }).boxed()));
        all.extend(operators());
    }
    Union::new_weighted(all).boxed()
}

fn standard_operations() -> Vec<(u32, BoxedStrategy<Operation>)> {
    let schedule = 0..2_usize;
    let window = select(vec![WindowPlan::None, WindowPlan::Fixed, WindowPlan::Sliding]);
    vec![
        (4, (0..4_usize).prop_map(Operation::StartBatch).boxed()),
        (2, (0..4_usize).prop_map(Operation::CancelBatch).boxed()),
        (
            2,
            (0..3_usize, 1..4_u32, window, seconds(&[10, 20, 40]))
                .prop_map(|(limit, max, window, length)| Operation::DefineLimit {
                    limit,
                    max,
                    window,
                    length,
                })
                .boxed(),
        ),
        (
            3,
            (schedule.clone(), weighted(0.5), 0..20_u64, option::weighted(0.3, 0..3_u64))
                .prop_map(|(schedule, keyed, at, etag)| Operation::Save {
                    schedule,
                    keyed,
                    at,
                    etag,
                })
                .boxed(),
        ),
        (1, schedule.clone().prop_map(Operation::Remove).boxed()),
        (
            1,
            (schedule.clone(), option::of(seconds(&[20])))
                .prop_map(|(schedule, length)| Operation::PauseSchedule { schedule, length })
                .boxed(),
        ),
        (
            1,
            (schedule.clone(), 0..20_u64)
                .prop_map(|(schedule, at)| Operation::ResumeSchedule { schedule, at })
                .boxed(),
        ),
        (
            1,
            (schedule, job())
                .prop_map(|(schedule, job)| Operation::Trigger { schedule, job })
                .boxed(),
        ),
        (3, (job(), weighted(0.2)).prop_map(|(job, skip)| Operation::Fire { job, skip }).boxed()),
        (1, (0..4_usize).prop_map(|lease| Operation::Log { lease }).boxed()),
        (
            1,
            (0..4_usize, 1..200_u8)
                .prop_map(|(lease, value)| Operation::Memo { lease, value })
                .boxed(),
        ),
        (
            1,
            (0..4_usize, 1..200_u8)
                .prop_map(|(lease, value)| Operation::Checkpoint { lease, value })
                .boxed(),
        ),
    ]
}

/// What operators do beside pausing.
fn operators() -> Vec<(u32, BoxedStrategy<Operation>)> {
    let order = (0..2_usize, 0..3_usize, option::of(seconds(&[20, 60])));
    let edit = (0..12_usize, guard(), job());
    vec![
        (
            1,
            order
                .prop_map(|(server, command, length)| Operation::Order { server, command, length })
                .boxed(),
        ),
        (3, edit.prop_map(|(job, guard, copy)| Operation::Edit { job, guard, copy }).boxed()),
        (
            2,
            (0..2_usize, 0..12_usize)
                .prop_map(|(limit, job)| Operation::ReleaseStuck { limit, job })
                .boxed(),
        ),
        (1, weighted(0.3).prop_map(|lifted| Operation::Mute { lifted }).boxed()),
        (
            1,
            (0..4_u8, 0..3_u64)
                .prop_map(|(operation, count)| Operation::Audit { operation, count })
                .boxed(),
        ),
        (
            2,
            (0..3_u8, 1..4_u64, weighted(0.3))
                .prop_map(|(operation, version, ended)| Operation::Bulk {
                    operation,
                    version,
                    ended,
                })
                .boxed(),
        ),
    ]
}

fn guard() -> impl Strategy<Value = GuardPlan> {
    Union::new_weighted(vec![
        (6, Just(GuardPlan::None).boxed()),
        (1, Just(GuardPlan::State(StateName::Enqueued)).boxed()),
        (1, (0..4_u64).prop_map(GuardPlan::Version).boxed()),
    ])
}

/// Few bits are set.
fn low_bits() -> impl Strategy<Value = u8> {
    select(vec![0, 0, 0, 1, 2, 3, 4, 7, 255])
}

fn submission() -> impl Strategy<Value = SubmissionPlan> {
    let batch = (option::weighted(0.4, 0..3_usize), weighted(0.5))
        .prop_map(|(inside, when_started)| BatchPlan { inside, when_started });
    (
        option::weighted(0.12, batch),
        option::weighted(0.15, 0..3_usize),
        vec(job(), 1..5),
        weighted(0.3),
    )
        .prop_map(|(batch, attach, jobs, reversed)| SubmissionPlan {
            batch,
            attach,
            jobs,
            reversed,
        })
}

fn job() -> impl Strategy<Value = JobPlan> {
    let period = |seconds| Until::Period(Duration::from_secs(seconds));
    let until = vec![Until::Finished, Until::Finished, Until::Started, period(20), period(86_400)];
    let conflict = vec![OnConflict::ReturnExisting, OnConflict::Reject, OnConflict::Replace];
    let unique = (0..4_usize, select(until), select(conflict));
    let start = (
        option::weighted(0.12, seconds(&[20])),
        option::weighted(0.12, seconds(&[40])),
        option::weighted(0.08, seconds(&[15])),
    )
        .prop_map(|(after, at, by)| StartPlan { after, at, by });
    let look = (weighted(0.1), weighted(0.17), weighted(0.17), weighted(0.17))
        .prop_map(|(large, tag, name, retention)| Look { large, tag, name, retention });
    let parent = Union::new_weighted(vec![
        (4, (0..4_usize).prop_map(ParentPlan::Near).boxed()),
        (4, (0..12_usize).prop_map(ParentPlan::Job).boxed()),
        (1, (0..3_usize).prop_map(ParentPlan::Batch).boxed()),
    ]);
    let on = select(vec![On::Success, On::Failed, On::Any]);
    let edges = vec((parent, on), 0..3_usize);
    let bits = (weighted(0.25), weighted(0.17), weighted(0.17), weighted(0.12));
    let limits = bits.prop_map(|(small, larger, sliding, fixed)| {
        u8::from(small) | u8::from(larger) << 1 | u8::from(sliding) << 2 | u8::from(fixed) << 3
    });
    (
        (option::weighted(0.05, 0..12_usize), 0..3_usize, 0..2_usize, 4..7_u8, start),
        (option::weighted(0.2, unique), limits, edges, weighted(0.8), look),
    )
        .prop_map(|((again, kind, queue, priority, start), rest)| {
            let (unique, limits, edges, member, look) = rest;
            JobPlan { again, kind, queue, priority, start, unique, limits, edges, member, look }
        })
}

fn change() -> impl Strategy<Value = ChangePlan> {
    let action = Union::new_weighted(vec![
        (4, option::weighted(0.25, seconds(&[5])).prop_map(ActionPlan::Requeue).boxed()),
        (2, option::weighted(0.5, seconds(&[5000])).prop_map(ActionPlan::Delete).boxed()),
        (1, seconds(&[9]).prop_map(ActionPlan::Reschedule).boxed()),
        (1, Just(ActionPlan::RunNow).boxed()),
        (
            1,
            (option::of(0..2_usize), option::of(0..11_u8))
                .prop_map(|(queue, priority)| ActionPlan::Move { queue, priority })
                .boxed(),
        ),
        (1, weighted(0.5).prop_map(ActionPlan::Retag).boxed()),
    ]);
    (0..16_usize, weighted(0.1), guard(), action).prop_map(
        |(job, same_operation, guard, action)| ChangePlan { job, same_operation, guard, action },
    )
}

fn claim() -> impl Strategy<Value = ClaimPlan> {
    let most = select(vec![8, 4, 2, 1, 0]);
    (0..2_usize, most, 1..4_usize, weighted(0.4), select(vec![8_usize, 1, 2])).prop_map(
        |(server, max, kinds, reversed, first_at_most)| ClaimPlan {
            server,
            max,
            kinds: 4 - kinds,
            reversed,
            first_at_most,
        },
    )
}

fn settle() -> impl Strategy<Value = SettlePlan> {
    let retry = |seconds| Ending::Retry { delay: Duration::from_secs(seconds) };
    let ending = Union::new_weighted(vec![
        (4, Just(Ending::Succeeded)),
        (1, Just(retry(0))),
        (1, Just(retry(10))),
        (1, Just(Ending::Failed(Reason::Permanent))),
        (1, Just(Ending::Snoozed { delay: Duration::from_secs(5) })),
        (1, Just(Ending::GivenBack)),
        (1, Just(Ending::Deleted(Reason::Cancelled))),
    ]);
    let duration = option::of((0..1000_u64).prop_map(Duration::from_millis));
    (
        (0..6_usize, weighted(0.12), ending, duration),
        (option::weighted(0.3, 0..3000_usize), weighted(0.25), weighted(0.25)),
    )
        .prop_map(|((lease, past, ending, duration), (result, retention, log))| SettlePlan {
            lease,
            past,
            ending,
            duration,
            result,
            retention,
            log,
        })
}
