//! Outgoing clients, one small trait each.

pub mod apns;
pub mod hooks;
pub mod nanomdm;

mod tls;
