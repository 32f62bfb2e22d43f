//! The warehouse seen from outside.

mod changes;
mod crash;
mod durable;
mod golden;
mod ing_2;
mod support;
mod tables;
mod upkeep;
