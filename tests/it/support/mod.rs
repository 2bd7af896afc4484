//! What the stories stand on.

pub mod api;
pub mod app;
#[macro_use]
pub mod db;
pub mod line;
pub mod ready;
pub mod edge;
pub mod rows;
