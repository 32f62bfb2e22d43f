//! The integration tests of the log.

mod api;
mod crash;
mod faults;
mod full_disk;
mod proofs;
mod subjects;
mod support;
mod tamper;
mod torn;
