//! Fake devices and a fake APNs, which speak only HTTP.
