//! Faults planted on purpose, one at a time, to show that the suite judges. Each stands where the author of
//! a storage would err.

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        /// A deliberate fault of this storage, planted with the feature `_faults` alone.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "_faults"), allow(dead_code, reason = "planted with the feature"))]
        pub enum Fault {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it does wrong.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*).trim_ascii(),)*
                }
            }
        }
    };
}

faults! {
    /// A commit is answered, but never written to the file.
    CommitIsNotWritten
    /// A submit overwrites what has the same id.
    SubmitOverwrites
    /// An id that is over an hour old is accepted.
    OldIdIsAccepted
    /// What a refused submission had stored before stays.
    RefusedSubmissionLeavesJobs
    /// A claim takes jobs from the held ones, too, once their lease has expired.
    ClaimTakesExpiredLeases
    /// Rescue takes what is expired at the first look.
    RescueWithoutSecondLook
    /// A settle compares the job alone, not fence and incarnation.
    SettleIgnoresTheFence
    /// Giving a job back takes back its fence.
    GiveBackDecreasesTheFence
    /// A log is written whoever sends it.
    LogIgnoresTheHolder
    /// A claim that is repeated takes more.
    RepeatedClaimTakesMore
    /// A settle that is repeated answers that the lease is lost.
    RepeatedSettleIsForgotten
    /// Rescue forgets that the job was cancelled.
    RescueForgetsACancel
    /// A lease that expired cannot be settled, though nobody has rescued it.
    ExpiredLeaseIsRefused
    /// A result is dropped when it comes with the settle.
    SettleDropsTheResult
    /// Children are not decided with their parent's end.
    ChildrenAreForgotten
    /// More children than a step may decide are forgotten.
    NoMarkForManyChildren
    /// A decision counts for two.
    EdgeCountsTwice
    /// A child of a parent that has finished waits for its next end.
    ChildOfAFinishedParentWaits
    /// Removing a parent leaves its open edges as they are.
    PurgeIgnoresEdges
    /// Whoever holds its key stands in the place of a new member, though its batch does not wait for it.
    AnyHolderStandsIn
    /// A member that is requeued stays counted as finished.
    RequeueSkipsTheBatch
    /// A batch that completes does not decide what waits for it.
    BatchEndDecidesNothing
    /// A schedule fires without a look at its next occurrence.
    FireWithoutCompareAndSwap
    /// A unique key is looked at, and not kept.
    KeyIsNotTaken
    /// A requeue takes a key that another one holds.
    RequeueTakesAHeldKey
    /// A lock's generation begins again when it was released.
    LockGenerationRepeats
    /// A lock is given to whoever asks.
    LockIsGivenTwice
    /// Rescue keeps the slots of the job.
    RescueKeepsTheSlot
    /// Deleting a running job frees its slots at once.
    DeleteFreesTheSlot
    /// Claims go by sequence alone.
    ClaimIgnoresPriority
    /// New work is told to nobody.
    NobodyIsWoken
    /// What is left to sweeps is told to nobody.
    MarksAreNotTold
    /// The history does not tell of claims.
    HistoryForgetsClaims
    /// Purge removes finished jobs before their time.
    PurgeIsEarly
    /// Bounds are not checked.
    BoundsAreNotChecked
    /// The guard of a change is not compared.
    GuardIsIgnored
    /// A freed slot lets nobody go.
    FreedSlotLetsNobodyGo
    /// A renew gives back nothing that it does not list.
    RenewGivesNothingBack
    /// A promotion writes a job as it was when it was listed, whatever happened since.
    PromotionOverwritesDeleted
    /// A settle compares the fence, and not whose life it is.
    SettleIgnoresTheIncarnation
    /// A renew gives back what it does not list, of claims that are still on their way, too.
    RenewIgnoresTheRange
    /// Rescue compares the fence of what was seen, and not the expiry.
    RescueIgnoresARenewal
    /// Deregistering does not say that its attempts are no crashes.
    DeregisteringCountsACrash
    /// Servers that are silent are kept.
    DeadServersAreNeverForgotten
    /// A server that was restarted can claim under its former life.
    FormerLifeMayClaim
    /// A server takes the name of one that is alive.
    NamesAreTakenAway
    /// A heartbeat of an unknown life is answered as if it were known.
    HeartbeatRevivesTheDead
    /// A requeue keeps result, checkpoint and memos of the former run.
    RequeueKeepsTheResult
    /// A job that was started in time is deleted when it comes back too late.
    StartByStopsRetries
    /// Purge leaves the id behind.
    PurgeForgetsTheId
    /// Purge removes members that their batch still needs.
    PurgeRemovesWhatIsKept
    /// A mark decides children that were added after it was left.
    DecisionReachesLaterChildren
    /// A job that is attached to a batch is not counted.
    AttachDoesNotCount
    /// A batch is discarded an hour after it was opened, whatever was attached since.
    AttachDoesNotTouch
    /// A nested batch that ends is not counted in the one around it.
    NestedBatchTellsNobody
    /// A batch that is cancelled does not ask what runs to stop.
    CancelSparesWhatRuns
    /// A key that is held for a period is freed when its job has finished.
    PeriodEndsWithTheJob
    /// The end of a former period frees a key that was taken anew.
    FormerPeriodFreesTheKey
    /// A job that is parked has a new version.
    ParkingIsAChange
    /// An attempt that is not the first is no start at a rate limit.
    RetryIsNoStart
    /// A schedule that is removed and saved again fires what it has fired.
    TombstoneIsForgotten
    /// An occurrence is fired while the job before it runs.
    OverlapIsNotLookedAt
    /// A pause does not change the etag of its schedule.
    PauseKeepsTheEtag
    /// The newest log lines go when there are too many.
    OldestLinesStay
    /// The errors of all attempts are kept.
    ErrorsGrow
    /// The history does not say who changed a job.
    HistoryForgetsTheActor
    /// A lock is released by its owner, whatever the generation.
    ReleaseForgetsTheGeneration
    /// An id that lies far ahead is accepted.
    FarIdIsAccepted
    /// One of several parents releases the child.
    SecondParentReleases
    /// A change that is repeated is made again.
    OperationIsForgotten
    /// Starting a large batch leaves no mark.
    LostMarkAtStart
}
