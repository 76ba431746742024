//! Faults planted on purpose, one at a time, to prove that the proof finds them. Internal.

/// A fault of the memory storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say what goes wrong")]
#[cfg_attr(
    not(feature = "_planted"),
    allow(dead_code, unreachable_pub, reason = "planted with the feature alone")
)]
pub enum Planted {
    SettleIgnoresTheFence,
    GiveBackDecreasesTheFence,
    RenewByServer,
    RepeatedClaimClaimsMore,
    RescueWithoutSecondLook,
    RescueForgetsACancel,
    RescueKeepsTheSlot,
    DeleteFreesTheSlotAtOnce,
    ReleaseOutsideTheCommit,
    EdgeCountedTwice,
    ChildOfAFinishedParentStaysOpen,
    PurgeIgnoresEdges,
    OldIdAcceptedAgain,
    RequeueSkipsTheBatchRecount,
    RetryTakesTheKeyAgain,
    FireWithoutCompareAndSwap,
    RepeatedSettleCountedTwice,
    PromotionOverwritesDeleted,
    SettleAndClaimIgnoresPause,
}

impl super::MemoryStorage {
    /// Plants a fault.
    #[cfg(feature = "_planted")]
    #[doc(hidden)]
    pub fn plant(&self, fault: Planted) {
        self.lock().planted = Some(fault);
    }
}

impl super::state::Tables {
    /// Whether the fault is planted; never without the feature, at no cost.
    pub(super) fn has(&self, fault: Planted) -> bool {
        cfg!(feature = "_planted") && self.planted == Some(fault)
    }
}
