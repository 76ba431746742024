//! The comparison with the model finds faults that were planted, and tells them in few steps.

#![cfg(feature = "_planted")]
#![allow(clippy::print_stdout, reason = "what was found is told")]

use std::sync::Arc;

use conformance_tests::model::{Difference, Fresh, Search};
use jobkit_core::memory::Planted;
use jobkit_core::storage::Level;
use jobkit_core::{MemoryStorage, TestClock};

/// The first difference between the model and one with a fault.
fn found(fault: Option<Planted>, level: Level, within: u64) -> Option<Difference> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = runtime.enter();
    Search::new(level, 0, within, 80).run(|clock: TestClock| async move {
        let storage = MemoryStorage::with_clock(Arc::new(clock.clone()));
        if let Some(fault) = fault {
            storage.plant(fault);
        }
        let clients = vec![Arc::new(storage.clone()) as _];
        Fresh { clients, clock: Some(clock), guard: Box::new(storage) }
    })
}

macro_rules! faults {
    ($($name:ident $fault:ident at $level:ident within $within:literal in $steps:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let difference = found(Some(Planted::$fault), Level::$level, $within);
                let difference = difference.expect("the fault is found");
                println!("{difference}");
                assert!(difference.steps.len() <= $steps, "{difference}");
            }
        )*
    };
}

// The sequences within which each is found, from seed 0, and the most steps that are left.
faults! {
    settle_ignores_the_fence SettleIgnoresTheFence at Core within 60 in 10;
    give_back_decreases_the_fence GiveBackDecreasesTheFence at Core within 60 in 10;
    a_repeated_claim_claims_more RepeatedClaimClaimsMore at Core within 60 in 10;
    rescue_without_second_look RescueWithoutSecondLook at Core within 60 in 10;
    promotion_overwrites_deleted PromotionOverwritesDeleted at Core within 60 in 10;
    rescue_keeps_the_limit_slot RescueKeepsTheSlot at Standard within 60 in 10;
    an_edge_counted_twice EdgeCountedTwice at Standard within 60 in 10;
    requeue_skips_the_batch_recount RequeueSkipsTheBatchRecount at Standard within 240 in 10;
    a_child_of_a_finished_parent_stays_open ChildOfAFinishedParentStaysOpen at Standard within 60 in 10;
    a_repeated_settle_counted_twice RepeatedSettleCountedTwice at Full within 60 in 10;
    settle_and_claim_ignores_pause SettleAndClaimIgnoresPause at Full within 60 in 10;
}

/// A server's clock cannot be set: it goes on while the sequence is hours ahead.
#[test]
fn the_model_differs_from_itself_in_nothing_on_a_clock_of_its_own() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = runtime.enter();
    let difference = Search::new(Level::Full, 0, 40, 80).run(|_| async {
        let storage = MemoryStorage::new();
        Fresh { clients: vec![Arc::new(storage.clone())], clock: None, guard: Box::new(storage) }
    });
    assert!(difference.is_none(), "{}", difference.expect("is some"));
}

#[test]
fn the_model_differs_from_itself_in_nothing() {
    let difference = found(None, Level::Full, 40);
    assert!(difference.is_none(), "{}", difference.expect("is some"));
}
