//! The core of JobKit.
