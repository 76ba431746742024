//! The simulation: fixed seeds hold, a seed repeats to the byte, and planted faults are found.

#![allow(clippy::print_stdout, reason = "the seeds are told, so that they can be repeated")]

use conformance_tests::simulation::{Options, run};

/// How many seeds each of the tests below runs.
const SEEDS: u64 = 50;

/// The first of them: always the same, so that a test judges the change at hand and nothing else. Other
/// seeds are for `cargo xtask soak`.
const FIRST: u64 = 20_787_000;

/// Seeds that failed once; each new one is added.
const FAILED: &[u64] = &[1_570, 24_215];

fn hold(part: u64) {
    let first = FIRST + part * SEEDS;
    hold_all(first..first + SEEDS);
}

fn hold_all(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        let outcome = run(seed, &Options::default());
        assert!(outcome.violations.is_empty(), "{}", outcome.complaint(seed));
        assert!(outcome.history.events.len() > 100, "seed {seed} did next to nothing");
    }
}

#[test]
fn the_first_seeds_hold() {
    hold(0);
}

#[test]
fn the_second_seeds_hold() {
    hold(1);
}

#[test]
fn the_third_seeds_hold() {
    hold(2);
}

#[test]
fn the_fourth_seeds_hold() {
    hold(3);
}

#[test]
fn seeds_that_failed_once_hold() {
    hold_all(FAILED.iter().copied());
}

#[test]
fn a_seed_repeats_to_the_byte() {
    for seed in [1, 4, 27, 4711, 100_000] {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(first.trace(), second.trace(), "seed {seed}");
        assert_eq!(first.digest(), second.digest());
    }
}

#[cfg(feature = "_planted")]
mod planted {
    use super::*;
    use jobkit_core::memory::Planted;

    /// The guarantee that the first seed to notice it names.
    fn found(options: &Options, within: u64) -> Vec<&'static str> {
        for seed in 0..within {
            let outcome = run(seed, options);
            if !outcome.violations.is_empty() {
                println!("found by seed {seed}: {}", outcome.violations[0]);
                return outcome.violations.iter().map(|violation| violation.guarantee).collect();
            }
        }
        panic!("{options:?} was not found within {within} seeds");
    }

    macro_rules! faults {
        ($($name:ident $fault:ident within $within:literal by $($guarantee:literal)|+;)*) => {
            $(
                #[test]
                fn $name() {
                    let options = Options::planted(Planted::$fault);
                    let by = found(&options, $within);
                    let expected = [$($guarantee),+];
                    assert!(by.iter().any(|one| expected.contains(one)), "{by:?}");
                }
            )*

            const PLANTED: &[Planted] = &[$(Planted::$fault),*];
        };
    }

    // The seeds within which each is found, from seed 0, and the guarantees that tell.
    faults! {
        settle_ignores_the_fence SettleIgnoresTheFence within 60 by "G5";
        give_back_decreases_the_fence GiveBackDecreasesTheFence within 60 by "G4" | "G5" | "G6";
        renew_by_server_instead_of_by_list RenewByServer within 60 by "G5";
        a_repeated_claim_claims_more RepeatedClaimClaimsMore within 150 by "G4";
        rescue_without_second_look RescueWithoutSecondLook within 60 by "G4";
        rescue_forgets_a_cancel RescueForgetsACancel within 60 by "G6";
        rescue_keeps_the_limit_slot RescueKeepsTheSlot within 60 by "G13";
        delete_frees_the_slot_at_once DeleteFreesTheSlotAtOnce within 60 by "G13";
        release_outside_the_commit ReleaseOutsideTheCommit within 60 by "G7";
        an_edge_counted_twice EdgeCountedTwice within 60 by "G8";
        a_child_of_a_finished_parent_stays_open ChildOfAFinishedParentStaysOpen within 60 by "G7" | "G8";
        purge_ignores_edges PurgeIgnoresEdges within 60 by "G7" | "G8";
        an_old_id_accepted_again OldIdAcceptedAgain within 60 by "G2";
        requeue_skips_the_batch_recount RequeueSkipsTheBatchRecount within 60 by "G9";
        retry_takes_the_key_again RetryTakesTheKeyAgain within 150 by "G11";
        fire_without_compare_and_swap FireWithoutCompareAndSwap within 150 by "G10";
        a_repeated_settle_counted_twice RepeatedSettleCountedTwice within 60 by "G18";
        promotion_overwrites_deleted PromotionOverwritesDeleted within 60 by "G1" | "G18";
        settle_and_claim_ignores_pause SettleAndClaimIgnoresPause within 60 by "G15";
    }

    #[test]
    fn a_split_flight_swaps_outcomes() {
        let by = found(&Options::swapping(), 100);
        assert!(by.contains(&"G1"), "{by:?}");
    }

    #[test]
    fn every_fault_has_a_test() {
        assert_eq!(PLANTED.len(), 19);
    }
}
