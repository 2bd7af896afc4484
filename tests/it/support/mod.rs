//! What the stories stand on.

pub mod api;
pub mod app;
pub mod applicant;
pub mod compat;
#[macro_use]
pub mod db;
pub mod edge;
pub mod ipa;
pub mod line;
pub mod nanomdm;
#[macro_use]
pub mod program;
pub mod ready;
pub mod receiver;
pub mod rows;
