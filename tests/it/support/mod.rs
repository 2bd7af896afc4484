//! What the stories stand on.

#[macro_use]
pub mod db;
pub mod rows;
