//! What the stories stand on.

pub mod api;
pub mod app;
pub mod applicant;
#[macro_use]
pub mod db;
pub mod edge;
pub mod ipa;
pub mod line;
pub mod ready;
pub mod rows;
