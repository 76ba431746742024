//! The list of cases, written once: the macro that makes tests and [`CASES`] both read it.

use crate::backend::Case;

/// The sources of the cases by domain, where their documentation says what they prove.
pub const SOURCES: &[(&str, &str)] = &[
    ("submit", include_str!("submit.rs")),
    ("queue", include_str!("queue/claim.rs")),
    ("queue", include_str!("queue/settle.rs")),
    ("queue", include_str!("queue/renew.rs")),
    ("queue", include_str!("queue/promote.rs")),
    ("queue", include_str!("queue/rescue.rs")),
    ("queue", include_str!("queue/wake_ups.rs")),
    ("states", include_str!("states.rs")),
    ("strangers", include_str!("strangers.rs")),
    ("continuations", include_str!("continuations.rs")),
    ("batches", include_str!("batches/starts.rs")),
    ("batches", include_str!("batches/ends.rs")),
    ("batches", include_str!("batches/cancel.rs")),
    ("batches", include_str!("batches/lists.rs")),
    ("batches", include_str!("batches/stand_ins.rs")),
    ("nested_batches", include_str!("nested_batches.rs")),
    ("locks", include_str!("locks.rs")),
    ("recurring", include_str!("recurring.rs")),
    ("recurring", include_str!("recurring/changes.rs")),
    ("limits", include_str!("limits/slots.rs")),
    ("limits", include_str!("limits/lanes.rs")),
    ("limits", include_str!("limits/windows.rs")),
    ("unique", include_str!("unique.rs")),
    ("log", include_str!("log.rs")),
    ("servers", include_str!("servers.rs")),
    ("monitoring", include_str!("monitoring/statistics.rs")),
    ("monitoring", include_str!("monitoring/lists.rs")),
    ("operations", include_str!("operations.rs")),
    ("error_groups", include_str!("error_groups.rs")),
    ("why", include_str!("why.rs")),
    ("bulk", include_str!("bulk.rs")),
    ("transfer", include_str!("transfer.rs")),
    ("retention", include_str!("retention.rs")),
    ("faults", include_str!("faults.rs")),
    ("storage", include_str!("storage.rs")),
    ("model", include_str!("model.rs")),
];

/// Hands the list to another macro: `[macro] arguments` becomes `macro! { (arguments) list }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __list {
    ([$($then:tt)*] $($arguments:tt)*) => { $($then)* ! { ($($arguments)*)
        core {
            submit {
                a_submitted_job_is_visible_to_every_connection
                a_repeated_submit_changes_nothing_and_says_so
                content_is_what_arguments_mean
                what_is_stored_already_is_known_among_many_new_ones
                the_same_id_with_other_content_is_refused
                a_derived_id_submitted_by_many_at_once_makes_one_job
                ids_too_old_or_too_far_ahead_are_refused
                a_refused_submission_stores_nothing_and_disturbs_no_neighbour
                a_flow_becomes_visible_wholly_or_not_at_all
                a_later_start_makes_a_job_scheduled
                jobs_keep_the_order_in_which_they_were_submitted
                every_bound_is_refused_with_its_field
                a_submission_holds_a_thousand_jobs_and_four_mebibytes
                records_are_answered_in_the_order_asked
                a_job_comes_back_as_it_was_submitted
                the_history_tells_what_was_applied
                the_history_is_bounded_and_says_what_fell_out
            }
            queue {
                many_claimers_get_each_job_once
                claim_skips_jobs_leased_by_another_worker
                claims_go_by_priority_and_then_by_age
                queues_are_served_in_order_within_their_quotas
                a_kind_that_was_not_named_is_never_taken
                each_claim_raises_the_fence_by_one
                a_repeated_claim_answers_the_same_leases
                a_repeated_claim_leaves_out_what_was_settled
                a_job_not_started_in_time_is_deleted
                an_unreadable_record_fails_and_its_neighbours_are_claimed
                a_server_that_is_not_announced_cannot_claim
                only_attempts_that_have_started_count_a_crash
                only_the_holder_settles
                a_repeated_settle_is_applied_once
                a_settle_named_twice_in_a_call_is_applied_once
                the_history_tells_each_end_of_an_attempt
                a_settle_changes_everything_in_one_step
                settles_of_one_call_do_not_disturb_each_other
                an_expired_lease_that_was_not_rescued_still_settles
                a_retry_counts_a_failure_and_waits
                a_snooze_and_a_give_back_consume_no_attempt
                a_job_that_comes_back_keeps_its_place
                what_comes_with_a_settle_is_readable_at_once
                what_is_settled_together_keeps_its_own_duration
                the_newest_errors_of_a_job_are_kept
                a_result_that_is_too_large_is_refused
                settle_and_claim_does_what_both_do
                a_renew_extends_what_is_held_and_tells_what_is_lost
                a_renew_gives_back_what_it_does_not_list
                a_renew_gives_back_much_in_bounded_steps
                what_a_renew_gave_back_cannot_be_settled
                a_claim_that_comes_after_its_renew_takes_nothing
                a_renew_tells_of_a_cancellation
                a_renew_decides_what_counts_as_started
                promotion_moves_what_is_due_and_nothing_else
                promotion_answers_the_next_instant
                a_delay_begun_ahead_of_the_clock_begins_again
                promotion_and_deletion_do_not_overwrite_each_other
                rescue_takes_only_what_was_seen_before
                a_job_that_crashes_too_often_fails
                a_cancelled_job_is_deleted_when_it_is_rescued
                a_rescued_attempt_can_neither_renew_nor_settle
                two_janitors_rescue_a_job_once
                rescue_works_in_bounded_steps
                a_lease_taken_ahead_of_the_clock_is_rescued
                a_claim_that_passes_over_much_says_that_there_is_more
                a_claim_in_vain_tells_of_nothing_later_than_what_is_due
                a_lease_of_no_use_is_refused
                steps_of_five_hundred_items_are_taken
                polling_finds_work_without_a_push
            }
            states {
                every_action_is_applied_or_refused_as_the_table_says
                a_guard_that_does_not_fit_refuses_the_change
                of_many_guarded_changes_one_is_applied
                a_repeated_change_is_applied_once
                deleting_a_running_job_marks_it_and_success_wins
                a_deleted_job_is_kept_and_not_claimed
                a_deletion_says_how_long_the_job_is_kept
                a_requeue_begins_a_new_run
                a_requeue_ends_start_by
                a_start_that_start_by_forbids_is_refused
                run_now_makes_a_scheduled_job_claimable
                reschedule_moves_a_job_to_another_instant
                a_moved_job_keeps_its_sequence
                a_waiting_job_gets_other_tags
                a_change_of_a_missing_job_answers_that_it_is_gone
                a_change_out_of_range_is_refused
                the_history_names_who_changed_a_job
            }
            locks {
                a_held_lock_is_not_given_to_another
                of_many_one_gets_the_lock
                each_new_owner_gets_a_greater_generation
                a_repeated_acquire_answers_the_same_generation
                only_the_holder_renews_and_releases
                an_expired_lock_is_free_for_others
                a_lock_out_of_range_is_refused
                a_lock_taken_ahead_of_the_clock_ends
            }
            servers {
                an_announced_server_is_listed_and_may_claim
                a_heartbeat_proves_life
                a_server_that_deregisters_counts_no_crash
                silent_servers_are_forgotten_and_keep_their_leases
                a_server_that_was_heard_ahead_of_the_clock_is_forgotten
                a_successor_takes_the_name_of_a_server_that_drains_or_is_silent
                a_live_server_keeps_its_name
            }
            retention {
                purge_removes_what_has_expired_and_nothing_else
                each_finish_is_kept_as_long_as_its_retention_says
                purge_works_in_bounded_steps
                the_place_of_what_is_gone_is_not_given_again
                purges_and_requeues_do_not_disturb_each_other
                beyond_the_number_the_oldest_finished_go
            }
            faults {
                a_lost_claim_loses_no_job
                a_lost_change_is_applied_once
                lost_renewals_rescues_and_promotions_are_repeated
                refused_items_leave_no_trace_in_a_flight
                a_sweep_without_work_says_so
            }
            storage {
                the_groups_fit_the_capabilities
                migrating_again_changes_nothing
                a_storage_that_is_in_order_reports_no_error
                namespaces_do_not_see_each_other
                what_is_not_offered_answers_unsupported
            }
            model {
                jobs_answer_as_the_model_does
            }
            strangers {
                a_claim_leaves_what_others_hold
                a_settle_and_a_renew_beside_a_held_job_are_busy
                a_change_beside_a_held_job_is_busy
                steps_leave_what_others_hold
            }
        }
        standard {
            queue {
                the_last_log_lines_travel_with_the_settle
            }
            continuations {
                the_end_of_a_parent_decides_its_children
                a_child_of_a_finished_parent_is_decided_at_once
                jobs_of_a_flow_name_each_other_in_any_order
                a_missing_parent_is_refused
                a_circle_is_refused
                a_child_waits_for_a_hundred_parents
                a_requeued_parent_that_succeeds_releases_its_child
                a_requeue_reopens_no_edge
                deleting_a_parent_decides_its_children
                an_awaiting_job_that_is_run_now_waits_for_nobody
                an_awaiting_job_is_not_run_after_start_by
                what_becomes_unmeetable_goes_down_the_line
                a_large_cascade_is_completed_by_sweeps
                many_children_are_decided_in_the_step_and_by_sweeps
                many_parents_that_end_in_one_call_decide_all_their_children
                a_requeue_before_the_sweep_changes_no_decision
                sweeps_at_the_same_time_release_each_child_once
                a_child_added_while_its_parent_finishes_is_not_lost
                parents_that_finish_at_once_release_their_child_once
                a_parent_that_ends_without_its_handler_decides_its_children
            }
            batches {
                a_batch_that_starts_at_once_runs
                members_wait_until_the_batch_is_started
                jobs_are_attached_to_open_and_started_batches
                nothing_is_attached_to_a_batch_that_is_over
                a_batch_submitted_again_is_the_same_batch
                a_batch_out_of_range_is_refused
                starting_a_large_batch_releases_every_member
                an_empty_batch_succeeds_when_it_is_started
                the_counts_are_true_at_every_step
                the_last_member_completes_the_batch_and_decides_its_edges
                members_that_finish_at_once_complete_the_batch_once
                attaching_while_the_last_member_finishes_is_all_or_nothing
                a_cancelled_batch_gives_up_its_members
                a_batch_that_was_not_started_can_be_cancelled
                cancelling_a_large_batch_is_completed_by_sweeps
                a_cancel_overtakes_a_start_that_is_not_done
                a_requeued_member_can_make_the_batch_succeed
                a_deleted_member_makes_success_unmeetable
                a_half_filled_batch_is_discarded_after_an_hour
                a_member_that_is_run_now_does_not_wait_for_the_start
                batches_are_listed_newest_first
                batches_that_stand_far_apart_fill_a_page
                a_batch_of_a_thousand_members_is_one_step
                parents_decide_in_the_order_of_their_ends
                a_member_whose_key_is_held_outside_is_refused
                a_holder_that_the_batch_waits_for_stands_in
                a_holder_in_a_completed_batch_inside_does_not_stand_in
            }
            nested_batches {
                a_nested_batch_is_one_member
                a_failure_inside_is_a_failed_member_until_it_is_fixed
                a_nested_batch_that_is_cancelled_is_a_deleted_member
                a_nested_batch_starts_with_the_one_around_it
                many_nested_batches_are_started_and_cancelled_by_sweeps
                a_cancel_overtakes_a_start_of_what_is_inside
                cancelling_reaches_members_that_came_back
                a_batch_is_not_nested_where_it_cannot_be
                a_half_filled_batch_is_discarded_with_what_is_inside
                nested_members_are_kept_for_the_batches_around
                a_lost_member_decides_what_waits_for_success
                a_batch_that_succeeded_before_is_lost_alone
                a_member_that_was_kept_decides_what_waits_for_success
                a_nested_batch_that_succeeded_stays_so
            }
            recurring {
                saving_stores_a_definition_once
                a_definition_comes_back_as_it_was_saved
                a_guarded_save_that_does_not_fit_changes_nothing
                what_is_due_is_answered_earliest_first
                a_fire_creates_the_job_and_moves_on
                of_many_schedulers_one_fires_an_occurrence
                a_fire_that_does_not_fit_is_stale
                an_overlapping_occurrence_is_skipped
                an_occurrence_whose_key_is_held_is_skipped
                an_occurrence_within_the_period_of_a_key_is_skipped
                an_occurrence_whose_job_is_refused_is_recorded
                skipped_occurrences_are_recorded_with_their_reason
                a_trigger_creates_a_job_beside_the_schedule
                a_paused_schedule_is_not_fired
                a_removed_schedule_remembers_what_it_fired
                the_latest_hundred_occurrences_are_kept
                saving_the_same_keeps_the_earlier_occurrence
                what_is_due_stays_due_when_the_job_is_replaced
                what_is_due_is_recorded_when_the_schedule_is_replaced
                what_is_due_is_recorded_when_the_schedule_is_removed
                what_was_due_is_recorded_when_the_schedule_is_resumed
                a_fire_planned_before_a_change_is_stale
                what_was_fired_ahead_of_the_clock_is_not_fired_again
                a_schedule_removed_after_the_clock_was_ahead_fires_what_is_left
                a_schedule_that_cannot_be_fired_disturbs_no_neighbour
            }
            limits {
                the_first_submit_defines_a_limit
                a_job_whose_limit_is_full_is_parked
                freed_slots_go_to_the_next_waiters_in_order
                a_crash_keeps_its_slot_until_the_rescue
                a_lost_claim_frees_its_slot_with_the_renew
                an_operators_number_wins
                a_window_that_was_taken_away_begins_anew
                limits_are_listed_by_name
                a_job_under_several_limits_needs_room_in_each
                a_limit_holds_however_many_claim
                a_waiter_is_not_forgotten_behind_a_pause
                a_parked_job_can_be_changed
                what_nobody_serves_is_not_in_the_way
                room_that_is_not_used_goes_to_the_next_waiter
                room_is_not_kept_for_a_server_that_is_busy
                a_move_gives_room_and_takes_it
                lanes_that_nobody_serves_are_left_alone
                no_more_are_let_go_than_have_room
                every_limit_with_waiters_is_looked_at
                fixed_windows_begin_at_their_instants
                sliding_windows_free_each_start_at_its_instant
                nothing_gives_a_start_back
                time_makes_waiters_claimable_in_order
                a_promotion_is_bounded_waiters_included
                a_clock_that_goes_back_closes_no_rate_limit
                a_change_of_windows_loses_no_start
                many_starts_end_at_their_instants
                a_rate_limit_tells_its_starts
                an_operator_changes_windows
                a_job_may_be_under_limits_of_both_kinds
                a_window_holds_however_many_claim
            }
            unique {
                a_held_key_answers_as_the_new_job_says
                the_holder_submitted_again_is_known
                replace_takes_the_place_of_a_waiting_holder
                a_key_is_held_until_its_job_has_finished
                a_cancelled_job_keeps_its_key_until_it_ends
                a_key_until_the_start_is_free_with_the_claim
                a_key_until_the_start_is_held_while_its_job_waits
                a_requeue_takes_the_key_or_is_refused
                of_many_one_takes_the_key
                the_existing_job_stands_in_the_place_of_a_parent
                a_key_named_twice_in_a_flow_is_taken_by_the_first
                a_job_that_is_born_deleted_takes_no_key
                a_key_is_held_for_its_period
                a_key_taken_ahead_of_the_clock_is_free
                a_period_outlives_the_record
                replace_takes_a_key_that_is_held_for_a_period
                a_job_may_replace_what_it_was
                a_requeue_takes_a_period_anew_only_when_it_has_passed
                purge_removes_keys_whose_period_has_passed
            }
            log {
                only_the_holder_writes
                lines_are_read_back_in_order_by_attempt
                the_oldest_lines_go_and_are_counted
                progress_replaces_the_bar_of_the_same_name
                the_first_memo_of_a_run_stays
                a_checkpoint_outlives_attempts
                what_is_too_large_to_keep_is_refused
            }
            retention {
                removing_a_parent_decides_its_open_edges
                removing_a_parent_of_many_loses_no_child
                members_are_kept_until_the_continuations_have_finished
                what_is_kept_is_not_in_the_way
                a_batch_that_never_succeeds_is_not_kept_for_ever
                an_empty_batch_is_removed_after_a_day
                empty_batches_that_stay_are_not_in_the_way
                with_a_job_goes_all_that_belongs_to_it
                beyond_the_number_what_a_batch_needs_stays
                beyond_the_number_open_edges_are_decided
            }
            faults {
                a_lost_submit_is_repeated_without_a_second_job
                a_lost_settle_is_applied_once
                a_lost_fire_creates_one_job
                a_sweep_that_dies_is_completed_by_the_next
            }
            model {
                flows_answer_as_the_model_does
            }
            strangers {
                a_submit_beside_what_others_hold_is_busy
                a_held_batch_is_busy
                a_slot_of_a_held_limit_is_given_by_a_sweep
                an_occurrence_beside_a_held_schedule_stays_due
            }
        }
        full {
            monitoring {
                a_place_that_no_list_gave_is_refused
                a_snapshot_equals_the_jobs_states
                a_snapshot_tells_what_is_parked
                a_snapshot_lists_paused_and_served_queues
                statistics_equal_the_transitions_applied
                counters_never_decrease
                what_many_count_at_once_adds_up
                lists_are_paged_in_the_order_of_their_state
                finished_jobs_of_many_queues_and_kinds_are_listed_in_one_order
                a_list_that_changes_while_it_is_paged_shows_each_job_once
                filters_combine_by_and
                lists_are_filtered_by_time
                failed_jobs_are_found_by_error_group
                a_page_out_of_range_is_refused
                relations_tell_parents_and_children_in_pages
                kinds_beyond_the_bound_are_counted_as_one
                what_matches_is_counted
                jobs_that_go_before_are_counted
                lanes_name_what_waits_and_since_when
            }
            operations {
                a_paused_queue_or_kind_yields_nothing
                settle_and_claim_respects_a_pause
                resume_makes_waiting_jobs_claimable
                a_pause_with_an_end_lifts_itself
                what_is_paused_is_listed
                a_server_is_told_what_to_do
                an_edited_copy_replaces_a_waiting_job
                an_edited_copy_takes_the_unique_key
                a_job_that_cannot_be_edited_stays_as_it_was
                a_bulk_operation_is_saved_by_one
                bulk_operations_are_listed_and_forgotten
                the_audit_tells_who_did_what
                a_secret_is_shared
                a_stuck_slot_is_released
            }
            error_groups {
                failures_are_counted_in_their_group
                what_was_asked_to_stop_is_in_no_group
                error_groups_are_found
                a_muted_group_is_still_counted
                error_groups_are_forgotten
                the_oldest_of_too_many_groups_goes
            }
            why {
                why_a_claimable_job_waits
                why_a_job_waits_for_a_server
                why_a_paused_job_waits
                why_a_scheduled_job_waits
                why_an_awaiting_job_waits
                why_a_job_can_never_run
                why_a_limited_job_waits
                why_a_running_job_is_as_it_is
            }
            bulk {
                a_bulk_operation_changes_all_that_matched
                a_bulk_operation_leaves_others_alone
                many_drive_one_bulk_operation
                a_bulk_operation_survives_a_crash_at_any_step
                a_bulk_operation_is_stopped
                a_bulk_retry_is_spread
            }
            transfer {
                everything_is_copied_as_it_was
                a_dump_holds_everything
                what_was_copied_goes_on
                a_copy_survives_a_crash_at_any_step
                a_storage_with_live_servers_is_not_copied
                what_cannot_be_imported_is_refused
            }
            model {
                what_is_shown_is_what_the_model_shows
            }
        }
        push {
            queue {
                an_idle_claimer_is_told_of_new_work
                an_idle_claimer_is_told_of_releases_slots_and_resumes
                a_claimer_that_took_less_than_it_could_is_told
                sleepers_are_told_of_what_they_would_take
                what_is_left_to_sweeps_is_told
                cancellations_and_due_instants_are_told
                the_ends_of_watched_jobs_are_told
            }
            limits {
                the_instant_of_room_is_told
            }
        }
        durable {
            storage {
                what_was_committed_survives_a_restart
            }
        }
        search {
            monitoring {
                text_is_found_in_arguments_and_names
            }
        }
    } };
}

/// Makes one `#[test]` of every case for a [`TestBackend`](crate::TestBackend): of all of them, or of
/// the groups that the backend's capabilities call for.
///
/// The tests stand in a module for each group and domain, such as
/// `core::submit::a_flow_becomes_visible_wholly_or_not_at_all`. One of them compares the groups named
/// with the storage's [`Capabilities`](jobkit_core::storage::Capabilities), so that none is skipped in
/// silence.
///
/// # Example: everything but what survives a restart
/// ```ignore
/// conformance_tests::conformance_tests!(Memory, groups = [core, standard, full, push, search]);
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($backend:ty $(,)?) => {
        $crate::conformance_tests!(
            $backend,
            groups = [core, standard, full, push, durable, search]
        );
    };
    ($backend:ty, groups = [$($group:ident),* $(,)?] $(,)?) => {
        #[doc(hidden)]
        const CONFORMANCE_GROUPS: &[$crate::Group] = &[$($crate::__group!($group)),*];
        $($crate::__list! { [$crate::__tests] $group, $backend })*
    };
}

/// The value of a group's name.
#[doc(hidden)]
#[macro_export]
macro_rules! __group {
    (core) => {
        $crate::Group::Core
    };
    (standard) => {
        $crate::Group::Standard
    };
    (full) => {
        $crate::Group::Full
    };
    (push) => {
        $crate::Group::Push
    };
    (durable) => {
        $crate::Group::Durable
    };
    (search) => {
        $crate::Group::Search
    };
}

/// Picks one group of the list and makes its tests.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ((core, $backend:ty) core { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { core, $backend, $($cases)* }
    };
    ((standard, $backend:ty) standard { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { standard, $backend, $($cases)* }
    };
    ((full, $backend:ty) full { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { full, $backend, $($cases)* }
    };
    ((push, $backend:ty) push { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { push, $backend, $($cases)* }
    };
    ((durable, $backend:ty) durable { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { durable, $backend, $($cases)* }
    };
    ((search, $backend:ty) search { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__module! { search, $backend, $($cases)* }
    };
    // Not this one: look at the next.
    ($wanted:tt $group:ident { $($cases:tt)* } $($rest:tt)*) => {
        $crate::__tests! { $wanted $($rest)* }
    };
}

/// The tests of one group.
#[doc(hidden)]
#[macro_export]
macro_rules! __module {
    ($group:ident, $backend:ty, $($domain:ident { $($case:ident)* })*) => {
        mod $group {
            $(
                mod $domain {
                    #[allow(unused_imports, reason = "the backend may be named by a path")]
                    use super::super::*;

                    $(
                        #[test]
                        fn $case() {
                            $crate::run::<$backend>(CONFORMANCE_GROUPS, |env| {
                                ::std::boxed::Box::pin($crate::$domain::$case(env))
                            });
                        }
                    )*
                }
            )*
        }
    };
}

/// The list as values.
macro_rules! values {
    (() $($group:ident { $($domain:ident { $($case:ident)* })* })*) => {
        /// Every case, for runners of other kinds than `cargo test`.
        pub const CASES: &[Case] = &[
            $($($(
                Case::new(
                    stringify!($domain),
                    stringify!($case),
                    __group!($group),
                    |env| Box::pin(crate::$domain::$case(env)),
                ),
            )*)*)*
        ];
    };
}

__list! { [values] }
