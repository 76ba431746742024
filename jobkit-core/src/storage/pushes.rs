//! The pushes of a storage, for those who go on without them.

use crate::storage::{Storage, WakeUp, WakeUpFilter, WakeUps, caught};

/// The pushes of a storage, where it offers any.
pub(crate) struct Pushes(Option<Box<dyn WakeUps>>);

impl Pushes {
    /// Those that the storage answered, if any.
    pub(crate) const fn new(offered: Option<Box<dyn WakeUps>>) -> Self {
        Self(offered)
    }

    /// Asks for them; an error is as if none were offered.
    pub(crate) async fn subscribe(storage: &dyn Storage, filter: WakeUpFilter) -> Self {
        Self(storage.wake_ups(filter).await.ok().flatten())
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
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

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
