use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// In which form a webhook is told of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookForm {
    /// As NanoMDM tells its webhook.
    NanoMdm,
    /// CloudEvents 1.0, signed by the scheme of Standard Webhooks.
    CloudEvents,
}

impl WebhookForm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NanoMdm, Self::CloudEvents];

    /// The word used in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NanoMdm => "nanomdm",
            Self::CloudEvents => "cloudevents",
        }
    }
}

impl fmt::Display for WebhookForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WebhookForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|form| form.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no form of webhooks; expected nanomdm or cloudevents"))
    }
}
