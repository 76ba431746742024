//! The behaviour suite of JobKit storages.
