use std::time::Duration;

use super::error::PhoneError;
use crate::model::Randomness;
use crate::simulator::apns::{ControlClient, FakeApns, Mailbox, Wake};

/// How devices hear of pushes.
#[derive(Clone)]
pub enum WakeService {
    /// Not at all: they have random tokens.
    None,
    /// Through a fake APNs in this process.
    Local(FakeApns),
    /// Through the control listener of a fake APNs in another process.
    Remote(ControlClient),
}

/// A device's connection to the push service.
#[derive(Clone)]
pub(super) enum Receiver {
    Deaf(Vec<u8>),
    Local(Mailbox),
    Remote(ControlClient, Vec<u8>),
}

impl WakeService {
    /// A new token.
    pub(super) async fn register(&self, topic: &str, random: &dyn Randomness) -> Result<Receiver, PhoneError> {
        Ok(match self {
            Self::None => {
                let mut token = vec![0; 32];
                random.fill(&mut token);
                Receiver::Deaf(token)
            }
            Self::Local(apns) => Receiver::Local(apns.register(Some(topic))),
            Self::Remote(client) => Receiver::Remote(client.clone(), client.register(Some(topic)).await?),
        })
    }
}

impl Receiver {
    pub(super) fn token(&self) -> &[u8] {
        match self {
            Self::Deaf(token) | Self::Remote(_, token) => token,
            Self::Local(mailbox) => mailbox.token(),
        }
    }

    /// The next wake, if one comes within `wait`.
    pub(super) async fn next(&self, wait: Duration) -> Result<Option<Wake>, PhoneError> {
        match self {
            Self::Deaf(_) => {
                tokio::time::sleep(wait).await;
                Ok(None)
            }
            Self::Local(mailbox) => Ok(mailbox.next(wait).await),
            Self::Remote(client, token) => Ok(client.next(token, wait).await?),
        }
    }
}
