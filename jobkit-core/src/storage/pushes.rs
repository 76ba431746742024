//! The pushes of a storage, for those who go on without them.

use std::time::Duration;

use crate::model::error::{Error, ErrorKind};
use crate::model::ids::JobId;
use crate::storage::{Storage, WakeUp, WakeUpFilter, WakeUps, caught};

/// How long a storage may take to answer whether it pushes.
const LIMIT: Duration = Duration::from_secs(30);

/// The pushes of a storage, where it offers any.
pub(crate) struct Pushes(Option<Box<dyn WakeUps>>);

impl Pushes {
    /// Those that the storage answered, if any.
    pub(crate) const fn new(offered: Option<Box<dyn WakeUps>>) -> Self {
        Self(offered)
    }

    /// Asks for them. An error, a panic or no answer within 30 s is as if none were offered: who asks has
    /// work that must not wait for it.
    pub(crate) async fn subscribe(storage: &dyn Storage, filter: WakeUpFilter) -> Self {
        let asked = tokio::time::timeout(LIMIT, caught(storage.wake_ups(filter))).await;
        let offered = asked.unwrap_or_else(|_| {
            let text = format!("the storage has not answered for {LIMIT:?}");
            Err(Error::new(ErrorKind::Timeout, text))
        });
        if let Err(error) = &offered {
            tracing::debug!(%error, "no wake-ups, polling");
        }
        Self(offered.ok().flatten())
    }

    /// Whether the storage pushes at all, or still does.
    pub(crate) const fn are_offered(&self) -> bool {
        self.0.is_some()
    }

    /// The next push. Never ends where none are offered, or no more come: after the storage was closed, or
    /// has panicked.
    ///
    /// # Cancel safety
    /// Dropping the future loses no push.
    pub(crate) async fn next(&mut self) -> WakeUp {
        if let Some(pushes) = &mut self.0 {
            if let Ok(Some(push)) = caught(async { Ok(pushes.next().await) }).await {
                return push;
            }
            self.0 = None;
        }
        std::future::pending().await
    }

    /// Asks to be told when these jobs finish; whether the storage does so. An error, a panic or no answer
    /// within 30 s is as if it did not.
    pub(crate) async fn watch(&mut self, jobs: &[JobId]) -> bool {
        let Some(pushes) = &mut self.0 else { return false };
        matches!(tokio::time::timeout(LIMIT, caught(pushes.watch(jobs))).await, Ok(Ok(true)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::memory::MemoryStorage;
    use crate::testing::{Fault, FaultyStorage};

    struct TwoPushes(u8);

    #[async_trait::async_trait]
    impl WakeUps for TwoPushes {
        async fn next(&mut self) -> Option<WakeUp> {
            self.0 += 1;
            match self.0 {
                1 => Some(WakeUp::Work),
                2 => Some(WakeUp::Lost),
                _ => None,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_that_hangs_or_panics_is_as_one_without_pushes() {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let filter = WakeUpFilter::default;
        for fault in [Fault::Late(LIMIT * 100), Fault::Panic, Fault::Before] {
            storage.fail_next("wake_ups", fault);
            let began = tokio::time::Instant::now();
            let pushes = Pushes::subscribe(&storage, filter()).await;
            assert!(!pushes.are_offered() && began.elapsed() <= LIMIT, "{fault:?}");
        }
        assert!(Pushes::subscribe(&storage, filter()).await.are_offered());
    }

    #[test]
    fn the_next_push_is_waited_for_where_no_more_come() {
        assert_eq!(Pushes::new(None).next().now_or_never(), None);
        let mut pushes = Pushes::new(Some(Box::new(TwoPushes(0))));
        assert_eq!(pushes.next().now_or_never(), Some(WakeUp::Work));
        assert_eq!(pushes.next().now_or_never(), Some(WakeUp::Lost));
        assert!(pushes.are_offered());
        assert_eq!(pushes.next().now_or_never(), None);
        assert!(!pushes.are_offered());
        assert_eq!(pushes.next().now_or_never(), None);
    }
}
