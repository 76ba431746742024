//! Limits on how many run at once, or start in a window.

mod lanes;
mod slots;
mod windows;

use crate::fixtures::*;

pub use self::lanes::*;
pub use self::slots::*;
pub use self::windows::*;

/// Parks what can be claimed: nobody has room for it. A claim need not park all of it at once.
async fn park_all(server: &mut Claimer) {
    for _ in 0..20 {
        assert!(server.claim(200).await.is_empty(), "there is no room");
    }
}
