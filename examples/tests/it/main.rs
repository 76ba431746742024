//! The quickstart, run as people run it.

mod quickstart;
