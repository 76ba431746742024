//! The suite judges: each fault planted in the toy turns a named case red, and nothing else is needed for it.

use std::fmt::Write;
use std::sync::Arc;

use conformance_tests::{TestBackend, try_case};
use jobkit_core::JobId;
use jobkit_core::storage::Storage;
use tempfile::TempDir;
use toy_backend::{Fault, ToyStorage};

/// The toy with the fault at this place of [`Fault::ALL`].
struct Faulty<const FAULT: usize>;

impl<const FAULT: usize> TestBackend for Faulty<FAULT> {
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder can be made");
        (open(&folder, FAULT), folder)
    }

    async fn reopen(folder: &TempDir) -> Option<Arc<dyn Storage>> {
        Some(open(folder, FAULT))
    }

    async fn make_unreadable(folder: &TempDir, job: JobId) -> bool {
        let storage = ToyStorage::open(folder.path().join("toy")).expect("opens");
        storage.make_unreadable(job).expect("writes")
    }
}

/// Without a fault.
const SOUND: usize = usize::MAX;

fn open(folder: &TempDir, fault: usize) -> Arc<dyn Storage> {
    let path = folder.path().join("toy");
    Arc::new(match Fault::ALL.get(fault) {
        Some(fault) => ToyStorage::open_faulty(path, *fault).expect("opens"),
        None => ToyStorage::open(path).expect("opens"),
    })
}

/// What is to be told of a fault: the guarantee it breaks, and the case that turns red.
struct Row {
    fault: Fault,
    guarantee: &'static str,
    case: &'static str,
}

macro_rules! faults {
    ($($fault:ident $guarantee:ident $case:literal)*) => {
        const TABLE: &[Row] = &[$(
            Row { fault: Fault::$fault, guarantee: stringify!($guarantee), case: $case },
        )*];

        #[allow(non_snake_case, reason = "the faults' own names")]
        mod fault {
            use super::*;

            $(
                #[test]
                fn $fault() {
                    assert_eq!(try_case::<Faulty<SOUND>>($case), Ok(()), "without the fault");
                    let outcome = try_case::<Faulty<{ Fault::$fault as usize }>>($case);
                    assert!(outcome.is_err(), "{} is green in spite of it", $case);
                }
            )*
        }
    };
}

faults! {
    CommitIsNotWritten G1 "storage::what_was_committed_survives_a_restart"
    SubmitOverwrites G2 "submit::a_repeated_submit_changes_nothing_and_says_so"
    OldIdIsAccepted G2 "submit::ids_too_old_or_too_far_ahead_are_refused"
    FarIdIsAccepted G2 "submit::ids_too_old_or_too_far_ahead_are_refused"
    PurgeForgetsTheId G2 "retention::purge_removes_what_has_expired_and_nothing_else"
    RefusedSubmissionLeavesJobs G3 "submit::a_refused_submission_stores_nothing_and_disturbs_no_neighbour"
    ClaimTakesExpiredLeases G4 "queue::claim_skips_jobs_leased_by_another_worker"
    RescueWithoutSecondLook G4 "queue::rescue_takes_only_what_was_seen_before"
    ExpiredLeaseIsRefused G4 "queue::an_expired_lease_that_was_not_rescued_still_settles"
    RescueIgnoresARenewal G4 "queue::rescue_takes_only_what_was_seen_before"
    SettleIgnoresTheFence G5 "queue::only_the_holder_settles"
    GiveBackDecreasesTheFence G5 "queue::a_snooze_and_a_give_back_consume_no_attempt"
    LogIgnoresTheHolder G5 "log::only_the_holder_writes"
    SettleIgnoresTheIncarnation G5 "queue::only_the_holder_settles"
    FormerLifeMayClaim G5 "servers::a_successor_takes_the_name_of_a_server_that_drains_or_is_silent"
    NamesAreTakenAway G21 "servers::a_live_server_keeps_its_name"
    RepeatedClaimTakesMore G6 "queue::a_repeated_claim_answers_the_same_leases"
    RepeatedSettleIsForgotten G6 "queue::a_repeated_settle_is_applied_once"
    RescueForgetsACancel G6 "queue::a_cancelled_job_is_deleted_when_it_is_rescued"
    PromotionOverwritesDeleted G6 "queue::promotion_and_deletion_do_not_overwrite_each_other"
    OperationIsForgotten G6 "states::a_repeated_change_is_applied_once"
    DeregisteringCountsACrash G6 "servers::a_server_that_deregisters_counts_no_crash"
    SettleDropsTheResult G7 "queue::what_comes_with_a_settle_is_readable_at_once"
    ChildrenAreForgotten G7 "continuations::the_end_of_a_parent_decides_its_children"
    NoMarkForManyChildren G7 "continuations::many_children_are_decided_in_the_step_and_by_sweeps"
    RequeueKeepsTheResult G7 "states::a_requeue_begins_a_new_run"
    LostMarkAtStart G7 "batches::starting_a_large_batch_releases_every_member"
    EdgeCountsTwice G8 "continuations::a_child_waits_for_a_hundred_parents"
    ChildOfAFinishedParentWaits G8 "continuations::a_child_of_a_finished_parent_is_decided_at_once"
    PurgeIgnoresEdges G8 "retention::removing_a_parent_decides_its_open_edges"
    SecondParentReleases G8 "continuations::a_child_waits_for_a_hundred_parents"
    DecisionReachesLaterChildren G8 "continuations::a_requeue_before_the_sweep_changes_no_decision"
    AnyHolderStandsIn G9 "batches::a_member_whose_key_is_held_outside_is_refused"
    RequeueSkipsTheBatch G9 "batches::a_requeued_member_can_make_the_batch_succeed"
    BatchEndDecidesNothing G9 "batches::the_last_member_completes_the_batch_and_decides_its_edges"
    AttachDoesNotCount G9 "batches::the_counts_are_true_at_every_step"
    AttachDoesNotTouch G9 "batches::a_half_filled_batch_is_discarded_after_an_hour"
    NestedBatchTellsNobody G9 "nested_batches::a_nested_batch_is_one_member"
    CancelSparesWhatRuns G9 "batches::a_cancelled_batch_gives_up_its_members"
    FireWithoutCompareAndSwap G10 "recurring::a_fire_that_does_not_fit_is_stale"
    TombstoneIsForgotten G10 "recurring::a_removed_schedule_remembers_what_it_fired"
    OverlapIsNotLookedAt G10 "recurring::an_overlapping_occurrence_is_skipped"
    PauseKeepsTheEtag G10 "recurring::a_paused_schedule_is_not_fired"
    KeyIsNotTaken G11 "unique::a_held_key_answers_as_the_new_job_says"
    RequeueTakesAHeldKey G11 "unique::a_requeue_takes_the_key_or_is_refused"
    PeriodEndsWithTheJob G11 "unique::a_key_is_held_for_its_period"
    FormerPeriodFreesTheKey G11 "unique::replace_takes_a_key_that_is_held_for_a_period"
    LockGenerationRepeats G12 "locks::each_new_owner_gets_a_greater_generation"
    LockIsGivenTwice G12 "locks::a_held_lock_is_not_given_to_another"
    ReleaseForgetsTheGeneration G12 "locks::only_the_holder_renews_and_releases"
    RescueKeepsTheSlot G13 "limits::a_crash_keeps_its_slot_until_the_rescue"
    DeleteFreesTheSlot G13 "limits::freed_slots_go_to_the_next_waiters_in_order"
    ParkingIsAChange G13 "limits::a_job_whose_limit_is_full_is_parked"
    RetryIsNoStart G13 "limits::nothing_gives_a_start_back"
    ClaimIgnoresPriority G14 "queue::claims_go_by_priority_and_then_by_age"
    NobodyIsWoken G16 "queue::an_idle_claimer_is_told_of_new_work"
    MarksAreNotTold G7 "queue::what_is_left_to_sweeps_is_told"
    HistoryForgetsClaims G17 "submit::the_history_tells_what_was_applied"
    HistoryForgetsTheActor G17 "states::the_history_names_who_changed_a_job"
    PurgeIsEarly G19 "retention::purge_removes_what_has_expired_and_nothing_else"
    PurgeRemovesWhatIsKept G19 "retention::members_are_kept_until_the_continuations_have_finished"
    ErrorsGrow G19 "queue::the_newest_errors_of_a_job_are_kept"
    OldestLinesStay G19 "log::the_oldest_lines_go_and_are_counted"
    BoundsAreNotChecked G20 "submit::every_bound_is_refused_with_its_field"
    GuardIsIgnored G20 "states::a_guard_that_does_not_fit_refuses_the_change"
    StartByStopsRetries G20 "queue::a_job_not_started_in_time_is_deleted"
    FreedSlotLetsNobodyGo G21 "limits::freed_slots_go_to_the_next_waiters_in_order"
    RenewGivesNothingBack G21 "queue::a_renew_gives_back_what_it_does_not_list"
    RenewIgnoresTheRange G21 "queue::a_renew_gives_back_what_it_does_not_list"
    HeartbeatRevivesTheDead G21 "servers::a_heartbeat_proves_life"
    DeadServersAreNeverForgotten G21 "servers::silent_servers_are_forgotten_and_keep_their_leases"
}

#[test]
fn every_fault_stands_in_the_table() {
    let named: Vec<Fault> = TABLE.iter().map(|row| row.fault).collect();
    for fault in Fault::ALL {
        assert!(named.contains(fault), "{fault:?}");
    }
    assert!(named.len() >= 20, "{}", named.len());
}

#[test]
fn the_guide_shows_the_table() {
    let mut table =
        String::from("| fault | what it does wrong | breaks | turns red |\n|---|---|---|---|\n");
    for Row { fault, guarantee, case } in TABLE {
        let what = fault.description();
        writeln!(table, "| `{fault:?}` | {what} | {guarantee} | `{case}` |").expect("writes");
    }
    let guide = include_str!("../../../docs/writing-a-backend.md");
    assert!(guide.contains(&table), "docs/writing-a-backend.md should say:\n\n{table}");
}
