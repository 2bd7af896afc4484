//! Muster: an agentless MDM server for Apple devices.
//!
//! `ARCHITECTURE.md` is the map of the rooms below and of what each may import.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod http;
pub mod model;
pub mod pki;
pub mod protocol;
pub mod remote;
pub mod service;
pub mod simulator;
pub mod store;
pub mod worker;
