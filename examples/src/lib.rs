//! The code in the documents, compiled.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
