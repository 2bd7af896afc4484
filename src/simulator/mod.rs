//! Fake devices and a fake APNs, which speak only HTTP.

pub mod apns;
pub mod devices;
mod web;
