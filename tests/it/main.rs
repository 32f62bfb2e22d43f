//! Integration tests of the program.

mod bad_feeds;
mod bad_input;
mod broker;
mod demo;
mod dependencies;
mod disk;
mod drawn;
mod errors;
mod kafka;
mod killed;
mod licences;
mod links;
mod owner;
mod products;
mod prompt;
mod real_data;
mod remote;
mod scenario;
mod service;
mod shapes;
mod support;
mod taken;
mod topic_world;
mod topics;
mod topics_kafka;
mod tour;
