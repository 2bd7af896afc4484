//! The job loop, the push sender, the scheduler.
