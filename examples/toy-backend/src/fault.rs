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
}
