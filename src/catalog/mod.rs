//! Apple's commands and profiles: building and checking them. Pure.
