//! Claiming, holding, settling, promoting and rescuing.

mod claim;
mod promote;
mod renew;
mod rescue;
mod settle;
mod wake_ups;

pub use self::claim::*;
pub use self::promote::*;
pub use self::renew::*;
pub use self::rescue::*;
pub use self::settle::*;
pub use self::wake_ups::*;
