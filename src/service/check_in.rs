//! Check-in messages: one verb for each. What an `Authenticate` decides is in [`authenticate`].

mod authenticate;
mod messages;
mod permission;
mod token_update;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::device_identity::Presented;
use super::{App, Error};
use crate::protocol::checkin::CheckIn;

pub use authenticate::authenticate;
pub(super) use authenticate::facts;
pub use messages::{check_out, get_bootstrap_token, set_bootstrap_token};
pub use token_update::token_update;
pub(super) use token_update::{complete, escrow_context, user_channel};

/// What the device gets back, with status 200 unless the error says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: an empty body with Content-Length 0.
    Empty,
    /// An XML property list.
    Plist(Vec<u8>),
    /// 410: the user may not log in to a channel of their own.
    Gone,
    /// 404: nothing is declared for this device.
    NothingDeclared,
    /// What the hook of declarative management answers, JSON.
    Declared(Vec<u8>),
}

/// A check-in message with what came along.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Who sent it.
    pub presented: Presented,
    /// The body as it came.
    pub raw: Bytes,
    /// The address that it came from, for the audit log.
    pub address: IpAddr,
    /// The query of the URL that it came by, for webhooks.
    pub query: Option<String>,
}

/// Handles a check-in message.
///
/// # Errors
/// As the message's own verb.
pub async fn handle(app: &App, arrived: Arrived, message: CheckIn) -> Result<Answer, Error> {
    let arrived = match message {
        CheckIn::Authenticate(m) => return authenticate(app, Arc::new(arrived), m).await.map(|()| Answer::Empty),
        CheckIn::TokenUpdate(m) => return token_update(app, Arc::new(arrived), m).await.map(|()| Answer::Empty),
        _ => &arrived,
    };
    match message {
        CheckIn::Authenticate(_) | CheckIn::TokenUpdate(_) => Ok(Answer::Empty),
        CheckIn::CheckOut(m) => check_out(app, arrived, m).await.map(|()| Answer::Empty),
        CheckIn::SetBootstrapToken(m) => set_bootstrap_token(app, arrived, m).await.map(|()| Answer::Empty),
        CheckIn::GetBootstrapToken(m) => get_bootstrap_token(app, arrived, m).await,
        CheckIn::GetToken(m) => messages::get_token(app, arrived, m).await,
        CheckIn::UserAuthenticate(m) => messages::user_authenticate(app, arrived, m).await,
        CheckIn::DeclarativeManagement(m) => messages::declarative_management(app, arrived, m).await,
    }
}

/// The place for which a raw check-in is sealed.
pub(super) fn raw_context(apple_id: &str, message_type: &str) -> String {
    format!("check_ins.raw:{apple_id}:{message_type}")
}
