use std::net::IpAddr;

use super::idempotency::Repeat;
use crate::model::{Role, TokenId};

/// Who asks for something: stands in the audit log.
#[derive(Clone, Debug)]
pub struct Actor {
    /// What kind of actor.
    pub kind: ActorKind,
    /// The API token, for a token.
    pub token: Option<TokenId>,
    /// Its name: of the token, of the device, …
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The request that it came with.
    pub request_id: Option<String>,
    /// The address that it came from.
    pub address: Option<String>,
    /// How the request is recognized when it comes again; none where the client gave no key.
    pub repeat: Option<Repeat>,
}

/// The kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// An API token.
    Token,
    /// A device, by its own messages.
    Device,
    /// The server itself.
    Server,
    /// Somebody with access to the server's command line.
    CommandLine,
    /// A tool with the API key of the interface that is compatible with another server.
    Compat,
}

impl ActorKind {
    /// The word in the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Device => "device",
            Self::Server => "server",
            Self::CommandLine => "command_line",
            Self::Compat => "compat",
        }
    }
}

impl Actor {
    /// The server itself.
    #[must_use]
    pub fn server() -> Self {
        Self::of(ActorKind::Server, "server")
    }

    /// Whoever runs a subcommand.
    #[must_use]
    pub fn command_line() -> Self {
        Self::of(ActorKind::CommandLine, "command line")
    }

    /// Whoever runs the subcommand that takes another server's fleet over.
    #[must_use]
    pub fn import() -> Self {
        Self::of(ActorKind::CommandLine, "muster import")
    }

    /// A tool that speaks another server's interface, as this user of it.
    #[must_use]
    pub fn compat(user: &str) -> Self {
        Self::of(ActorKind::Compat, user)
    }

    /// A device, named by Apple's id of its enrollment.
    #[must_use]
    pub fn device(apple_id: &str) -> Self {
        Self::of(ActorKind::Device, apple_id)
    }

    fn of(kind: ActorKind, name: &str) -> Self {
        Self {
            kind,
            token: None,
            name: name.to_owned(),
            role: Role::Admin,
            request_id: None,
            address: None,
            repeat: None,
        }
    }

    /// The same actor, from this address.
    #[must_use]
    pub fn at(mut self, address: Option<IpAddr>) -> Self {
        self.address = address.map(|address| address.to_string());
        self
    }
}
