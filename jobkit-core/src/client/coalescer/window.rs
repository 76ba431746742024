//! How many round trips may be in flight.

/// The sizes of recent round trips, in requests.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Of the one that was sent last.
    last_sent: usize,
    /// Of the one that came back last.
    last_completed: usize,
}

impl Window {
    /// Whether those who wait may leave now. With nothing in flight they always may, and a third round
    /// trip never leaves. A second one must be as large as the first. Where that one is smaller than is
    /// usual here, as the first after a pause is, it is no measure: two of half the callers each keep a
    /// storage busy, a large and a small one do not.
    pub(super) fn may_send(&self, in_flight: usize, waiting: usize) -> bool {
        match in_flight {
            0 => waiting > 0,
            1 => waiting >= self.last_sent.max(self.last_completed / 2).max(1),
            _ => false,
        }
    }

    pub(super) fn sent(&mut self, requests: usize) {
        self.last_sent = requests;
    }

    pub(super) fn completed(&mut self, requests: usize) {
        // None, where somebody else took them all.
        if requests > 0 {
            self.last_completed = requests;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_round_trip_is_no_measure_where_large_ones_are_usual() {
        let mut window = Window::default();
        window.sent(40);
        window.completed(40);
        assert!(window.may_send(0, 1), "nothing is in flight");
        window.sent(2);
        assert!(!window.may_send(1, 19) && window.may_send(1, 20));
        assert!(!window.may_send(2, 100), "never a third one");
    }
}
