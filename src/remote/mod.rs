//! Outgoing clients, one small trait each.

pub mod apns;
