//! The `muster` program: everything is in the library.

fn main() {}
