//! The profile by which a device enrolls: made from a template, and read again (as a device does).
//!
//! A template is an ordinary .mobileconfig with words in double braces. It is filled in as values, never as text, so
//! that nothing that is put in needs escaping and the result is always a property list.

mod read;
mod template;

use uuid::Uuid;

pub use read::{EnrollmentProfile, Mdm, Scep, read};
pub use template::Template;

use crate::model::Secret;

/// What a template is filled in with.
#[derive(Clone, Debug)]
pub struct Values {
    /// `{{identifier}}`: the profile's; must never change for enrolled devices.
    pub identifier: String,
    /// `{{display_name}}`: the profile's name on the device.
    pub display_name: String,
    /// `{{description}}`: what it says of itself.
    pub description: String,
    /// `{{organization}}`: whose it is.
    pub organization: String,
    /// What `{{uuid:…}}` is derived from: random, one for each profile that is handed out.
    pub uuid: Uuid,
    /// `{{scep_url}}`, without a query.
    pub scep_url: String,
    /// `{{challenge}}`: the SCEP challenge.
    pub challenge: Secret<String>,
    /// `{{subject}}`: the names that the device asks a certificate for, such as `CN`, outermost first.
    pub subject: Vec<(String, String)>,
    /// `{{ca_fingerprint}}`: SHA-1 of the SCEP CA's certificate; none where SCEP is spoken over https that is trusted.
    pub ca_fingerprint: Option<Vec<u8>>,
    /// `{{topic}}`: the push topic.
    pub topic: String,
    /// `{{server_url}}`: https, must never change.
    pub server_url: String,
    /// `{{checkin_url}}`: https, must never change.
    pub checkin_url: String,
    /// `{{sign_message}}`: whether the device signs its messages.
    pub sign_message: bool,
    /// `{{access_rights}}`: Apple's bits; 8191 is all of them.
    pub access_rights: u32,
    /// `{{root_certificate}}`: DER of each root that the device has to trust.
    pub roots: Vec<Vec<u8>>,
}
