//! Listeners and routes: extract, authenticate, bound, call one verb, map the error.

pub mod tls;

#[cfg(test)]
mod fixtures;
