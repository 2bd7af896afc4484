//! Settings: load, validate, redact; all faults reported together.
