//! Growing pauses between tries.

use std::time::Duration;

use crate::model::ids::jittered;

/// Pauses that double from the first to the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait now, jittered so that servers do not act in step; the next time longer.
    pub(crate) fn next(&mut self) -> Duration {
        jittered(self.next_exact())
    }

    /// The same to the dot, for what is alone.
    pub(crate) fn next_exact(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// Begins with the first pause again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(20), millis(100));
        let pauses = [(); 5].map(|()| backoff.next_exact());
        assert_eq!(pauses, [20, 40, 80, 100, 100].map(millis));
        backoff.reset();
        let pause = backoff.next();
        assert!((millis(16)..=millis(24)).contains(&pause), "{pause:?}");
        assert_eq!(backoff.next_exact(), millis(40));
    }
}
