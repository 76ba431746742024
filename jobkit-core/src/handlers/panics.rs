//! Where the last panic of a thread happened.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers locations, and calls the hook that was there before.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            // Not while the thread is being torn down.
            let _ = LAST.try_with(|last| *last.borrow_mut() = location);
            before(info);
        }));
    });
}

pub(crate) fn set_location(location: Option<String>) {
    LAST.with_borrow_mut(|last| *last = location);
}

/// Takes the location; a panic is caught on the thread where it happened.
pub(crate) fn last_location() -> Option<String> {
    LAST.with_borrow_mut(Option::take)
}
