use serde::{Deserialize, Serialize};

use crate::model::WebhookForm;

/// What a device said, of which webhooks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::service) enum Message {
    Authenticate,
    TokenUpdate,
    CheckOut,
    SetBootstrapToken,
    GetBootstrapToken,
    GetToken,
    UserAuthenticate,
    DeclarativeManagement,
    /// What came of a command.
    Report,
    /// A poll.
    Idle,
    /// Nothing that a device said: an admin tries the webhook.
    Test,
}

/// What is known of a message when it is handled.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::service) struct Standing {
    /// Whether it is from a user's channel.
    pub(in crate::service) is_user: bool,
    /// Of a `TokenUpdate`: which one of its enrollment it is.
    pub(in crate::service) tally: Option<i64>,
    /// A report that tells nothing new: it came before, or its command is none of ours.
    pub(in crate::service) is_old: bool,
}

/// The topics of NanoMDM's webhook.
const NANOMDM: [&str; 9] = [
    "mdm.Authenticate",
    "mdm.TokenUpdate",
    "mdm.CheckOut",
    "mdm.SetBootstrapToken",
    "mdm.GetBootstrapToken",
    "mdm.GetToken",
    "mdm.UserAuthenticate",
    "mdm.DeclarativeManagement",
    "mdm.Connect",
];

/// The types of our own events.
const CLOUDEVENTS: [&str; 13] = [
    "muster.device.authenticated",
    "muster.device.enrolled",
    "muster.user.enrolled",
    "muster.device.token_updated",
    "muster.device.checked_out",
    "muster.user.checked_out",
    "muster.device.bootstrap_token_set",
    "muster.device.bootstrap_token_requested",
    "muster.device.token_requested",
    "muster.user.authenticating",
    "muster.device.declarative_management",
    "muster.command.answered",
    "muster.device.idle",
];

/// All topics of a form.
#[must_use]
pub const fn topics(form: WebhookForm) -> &'static [&'static str] {
    match form {
        WebhookForm::NanoMdm => &NANOMDM,
        WebhookForm::CloudEvents => &CLOUDEVENTS,
    }
}

impl Message {
    /// The topic in a form; none where it is told of nothing.
    pub(super) fn topic(self, form: WebhookForm, standing: Standing) -> Option<&'static str> {
        match form {
            WebhookForm::NanoMdm => Some(self.nanomdm()),
            WebhookForm::CloudEvents => {
                (self != Self::Report || !standing.is_old).then(|| self.event_type(standing.is_user, standing.tally))
            }
        }
    }

    /// Whether it may have one of these topics.
    pub(super) fn may_be(self, form: WebhookForm, topics: &[String]) -> bool {
        let may = |topic: &str| topics.iter().any(|one| one == topic);
        match form {
            WebhookForm::NanoMdm => may(self.nanomdm()),
            WebhookForm::CloudEvents => [(false, None), (false, Some(1)), (true, None), (true, Some(1))]
                .into_iter()
                .any(|(is_user, tally)| may(self.event_type(is_user, tally))),
        }
    }

    const fn nanomdm(self) -> &'static str {
        match self {
            Self::Authenticate => "mdm.Authenticate",
            Self::TokenUpdate => "mdm.TokenUpdate",
            Self::CheckOut => "mdm.CheckOut",
            Self::SetBootstrapToken => "mdm.SetBootstrapToken",
            Self::GetBootstrapToken => "mdm.GetBootstrapToken",
            Self::GetToken => "mdm.GetToken",
            Self::UserAuthenticate => "mdm.UserAuthenticate",
            Self::DeclarativeManagement => "mdm.DeclarativeManagement",
            Self::Report | Self::Idle => "mdm.Connect",
            Self::Test => "muster.Test",
        }
    }

    const fn event_type(self, is_user: bool, tally: Option<i64>) -> &'static str {
        match self {
            Self::Authenticate => "muster.device.authenticated",
            Self::TokenUpdate => match (tally, is_user) {
                (Some(1), false) => "muster.device.enrolled",
                (Some(1), true) => "muster.user.enrolled",
                _ => "muster.device.token_updated",
            },
            Self::CheckOut if is_user => "muster.user.checked_out",
            Self::CheckOut => "muster.device.checked_out",
            Self::SetBootstrapToken => "muster.device.bootstrap_token_set",
            Self::GetBootstrapToken => "muster.device.bootstrap_token_requested",
            Self::GetToken => "muster.device.token_requested",
            Self::UserAuthenticate => "muster.user.authenticating",
            Self::DeclarativeManagement => "muster.device.declarative_management",
            Self::Report => "muster.command.answered",
            Self::Idle => "muster.device.idle",
            Self::Test => "muster.webhook.test",
        }
    }

    /// Whether it is about a command, or asks for one.
    pub(super) const fn is_report(self) -> bool {
        matches!(self, Self::Report | Self::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_one_that_can_be_asked_for() {
        let all = [
            Message::Authenticate,
            Message::TokenUpdate,
            Message::CheckOut,
            Message::SetBootstrapToken,
            Message::GetBootstrapToken,
            Message::GetToken,
            Message::UserAuthenticate,
            Message::DeclarativeManagement,
            Message::Report,
            Message::Idle,
        ];
        for form in WebhookForm::ALL {
            for topic in topics(form) {
                assert!(all.iter().any(|message| message.may_be(form, &[(*topic).to_owned()])), "{topic}");
            }
            for message in all {
                for (is_user, tally) in [(false, None), (true, Some(1)), (false, Some(1)), (true, Some(2))] {
                    let topic = message.topic(form, Standing { is_user, tally, is_old: false }).unwrap();
                    assert!(topics(form).contains(&topic), "{topic}");
                }
            }
        }
        let old = Standing { is_old: true, ..Standing::default() };
        assert_eq!(Message::Report.topic(WebhookForm::CloudEvents, old), None);
        assert_eq!(Message::Report.topic(WebhookForm::NanoMdm, old), Some("mdm.Connect"));
    }
}
