//! Listeners and routes: extract, authenticate, bound, call one verb, map the error.
