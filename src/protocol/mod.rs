//! Apple's wire messages to and from typed values. Pure: no I/O, no clock, no async.
