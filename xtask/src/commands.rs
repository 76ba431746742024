//! The commands, one file each.

pub(crate) mod chaos;
pub(crate) mod fix;
pub(crate) mod package;
pub(crate) mod simulate;
pub(crate) mod soak;
pub(crate) mod test;
pub(crate) mod verify;
