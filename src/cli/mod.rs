//! Subcommands and the composition root.
