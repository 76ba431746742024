//! Operations as data.
//!
//! They name jobs, batches, leases and lives by small numbers, which are resolved when they are played
//! against what exists then: so every part of a sequence means something, and sequences shrink. A number
//! counts from the newest, so that leaving out what came before changes as little as possible.

use std::time::Duration;

use jobkit_core::edge::On;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::unique::{OnConflict, Until};

/// One step of a sequence.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which connection makes the call.
    pub(super) client: usize,
    /// Whether the caller never learns the answer.
    pub(super) lost: bool,
    pub(super) operation: Operation,
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Time passes.
    Wait(Duration),
    /// An earlier call once more, as after a lost answer.
    Repeat(usize),
    Submit(Vec<SubmissionPlan>),
    Change(Vec<ChangePlan>, bool),
    Claim(ClaimPlan),
    Settle(Vec<SettlePlan>),
    SettleAndClaim(Vec<SettlePlan>, ClaimPlan),
    /// The leases of one life, but for those whose place the mask names; some have started.
    Renew {
        server: usize,
        left_out: u8,
        started: u8,
        past: bool,
    },
    Promote,
    Sweep,
    Purge,
    Rescue,
    Acquire {
        lock: usize,
        owner: usize,
        length: Duration,
    },
    RenewLock {
        lock: usize,
        owner: usize,
    },
    Release {
        lock: usize,
        owner: usize,
    },
    Announce {
        server: usize,
        reborn: bool,
        queues: usize,
        kinds: usize,
    },
    Heartbeat {
        server: usize,
        busy: u32,
    },
    Deregistration {
        server: usize,
        running: u8,
    },
    RemoveDead(Duration),
    StartBatch(usize),
    CancelBatch(usize),
    DefineLimit {
        limit: usize,
        max: u32,
        window: WindowPlan,
        length: Duration,
    },
    Save {
        schedule: usize,
        keyed: bool,
        at: u64,
        etag: Option<u64>,
    },
    Remove(usize),
    PauseSchedule {
        schedule: usize,
        length: Option<Duration>,
    },
    ResumeSchedule {
        schedule: usize,
        at: u64,
    },
    Trigger {
        schedule: usize,
        job: JobPlan,
    },
    /// Fires, or skips, what is due.
    Fire {
        job: JobPlan,
        skip: bool,
    },
    Log {
        lease: usize,
    },
    Memo {
        lease: usize,
        value: u8,
    },
    Checkpoint {
        lease: usize,
        value: u8,
    },
    Pause {
        target: usize,
        length: Option<Duration>,
    },
    Resume {
        target: usize,
    },
    Order {
        server: usize,
        /// None, to be quiet, to stop.
        command: usize,
        length: Option<Duration>,
    },
    Edit {
        job: usize,
        guard: GuardPlan,
        copy: JobPlan,
    },
    ReleaseStuck {
        limit: usize,
        job: usize,
    },
    Mute {
        lifted: bool,
    },
    Audit {
        operation: u8,
        count: u64,
    },
    Bulk {
        operation: u8,
        version: u64,
        ended: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum WindowPlan {
    None,
    Fixed,
    Sliding,
}

#[derive(Clone, Debug)]
pub(super) struct SubmissionPlan {
    pub(super) batch: Option<BatchPlan>,
    /// The batch that is there already and that members are attached to.
    pub(super) attach: Option<usize>,
    pub(super) jobs: Vec<JobPlan>,
    /// Children before their parents.
    pub(super) reversed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct BatchPlan {
    pub(super) inside: Option<usize>,
    pub(super) when_started: bool,
}

#[derive(Clone, Debug)]
pub(super) struct JobPlan {
    /// The id of a job that exists.
    pub(super) again: Option<usize>,
    pub(super) kind: usize,
    pub(super) queue: usize,
    pub(super) priority: u8,
    pub(super) start: StartPlan,
    pub(super) unique: Option<(usize, Until, OnConflict)>,
    /// One bit for each limit.
    pub(super) limits: u8,
    pub(super) edges: Vec<(ParentPlan, On)>,
    pub(super) member: bool,
    pub(super) look: Look,
}

/// When a job may start.
#[derive(Clone, Debug)]
pub(super) struct StartPlan {
    pub(super) after: Option<Duration>,
    pub(super) at: Option<Duration>,
    pub(super) by: Option<Duration>,
}

/// What is only kept and shown.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) large: bool,
    pub(super) tag: bool,
    pub(super) name: bool,
    pub(super) retention: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ParentPlan {
    /// An earlier one of the same submission.
    Near(usize),
    Job(usize),
    Batch(usize),
}

#[derive(Clone, Debug)]
pub(super) struct ChangePlan {
    pub(super) job: usize,
    /// Under the number of the operation before.
    pub(super) same_operation: bool,
    pub(super) guard: GuardPlan,
    pub(super) action: ActionPlan,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum GuardPlan {
    None,
    State(StateName),
    Version(u64),
}

#[derive(Clone, Debug)]
pub(super) enum ActionPlan {
    Requeue(Option<Duration>),
    Delete(Option<Duration>),
    Reschedule(Duration),
    RunNow,
    Move { queue: Option<usize>, priority: Option<u8> },
    Retag(bool),
}

#[derive(Clone, Debug)]
pub(super) struct ClaimPlan {
    pub(super) server: usize,
    pub(super) max: usize,
    pub(super) kinds: usize,
    pub(super) reversed: bool,
    pub(super) first_at_most: usize,
}

#[derive(Clone, Debug)]
pub(super) struct SettlePlan {
    pub(super) lease: usize,
    /// One that was settled or taken away before.
    pub(super) past: bool,
    pub(super) ending: Ending,
    pub(super) duration: Option<Duration>,
    pub(super) result: Option<usize>,
    pub(super) retention: bool,
    pub(super) log: bool,
}
