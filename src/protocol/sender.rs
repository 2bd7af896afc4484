use plist::Dictionary;

use super::DecodeError;
use super::field::{self, text};
use crate::model::{AppleId, EnrollmentKind, SHARED_IPAD_USER};

/// Longest id that we take, bytes. Apple's own have 25 to 73 characters.
const MAX_ID: usize = 255;

/// Who a message says that it is from: Apple's ids as they came, and what they mean together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The enrollment that the ids name.
    pub apple_id: AppleId,
    /// `UDID` as sent.
    pub udid: Option<String>,
    /// `EnrollmentID` as sent; some clients send it beside the UDID.
    pub enrollment_id: Option<String>,
    /// `UserShortName`: the account name of a user channel.
    pub user_short_name: Option<String>,
    /// `UserLongName`: the full name of a user channel.
    pub user_long_name: Option<String>,
}

impl Sender {
    /// Resolves the ids of a message.
    ///
    /// The UDID wins over the EnrollmentID when both are there. An empty id counts as absent.
    ///
    /// # Errors
    /// [`DecodeError::Missing`] where no id is there, [`DecodeError::BadId`] where one cannot be kept.
    pub fn of(message: &Dictionary) -> Result<Self, DecodeError> {
        let udid = id(message, "UDID")?;
        let enrollment_id = id(message, "EnrollmentID")?;
        let user_id = id(message, "UserID")?;
        let enrollment_user_id = id(message, "EnrollmentUserID")?;
        let user_short_name = field::name(message, "UserShortName");
        let user_long_name = field::name(message, "UserLongName");
        let apple_id = match (&udid, &enrollment_id) {
            (Some(udid), _) => {
                let device = first_part("UDID", udid)?;
                match user_id {
                    None => device_channel(device, EnrollmentKind::Device),
                    Some(user) if user.eq_ignore_ascii_case(SHARED_IPAD_USER) => {
                        let short = id(message, "UserShortName")?.ok_or(DecodeError::Missing("UserShortName"))?;
                        user_channel(device, &short, EnrollmentKind::SharedIpad)
                    }
                    Some(user) => user_channel(device, &user, EnrollmentKind::User),
                }
            }
            (None, Some(enrollment)) => {
                let device = first_part("EnrollmentID", enrollment)?;
                match enrollment_user_id {
                    None => device_channel(device, EnrollmentKind::UserEnrollmentDevice),
                    Some(user) => user_channel(device, &user, EnrollmentKind::UserEnrollment),
                }
            }
            (None, None) => return Err(DecodeError::Missing("UDID")),
        };
        Ok(Self { apple_id, udid, enrollment_id, user_short_name, user_long_name })
    }
}

fn device_channel(id: &str, kind: EnrollmentKind) -> AppleId {
    AppleId { id: id.to_owned(), parent: None, kind }
}

fn user_channel(device: &str, user: &str, kind: EnrollmentKind) -> AppleId {
    AppleId { id: format!("{device}:{user}"), parent: Some(device.to_owned()), kind }
}

/// An id that can be kept and compared: bounded, without control characters and without what stands for bytes that
/// could not be read (two different ids would look the same).
fn id(message: &Dictionary, key: &'static str) -> Result<Option<String>, DecodeError> {
    let Some(id) = text(message, key)?.filter(|id| !id.is_empty()) else { return Ok(None) };
    if id.len() > MAX_ID || id.chars().any(|c| c.is_control() || c == '\u{FFFD}') {
        return Err(DecodeError::BadId(key));
    }
    Ok(Some(id))
}

/// A device's id holds no colon: it separates device and user, and a device must not be able to name another one's user.
fn first_part<'a>(key: &'static str, id: &'a str) -> Result<&'a str, DecodeError> {
    if id.contains(':') { Err(DecodeError::BadId(key)) } else { Ok(id) }
}

#[cfg(test)]
mod tests {
    use plist::Value;

    use super::*;

    fn sender(ids: &[(&str, &str)]) -> Result<Sender, DecodeError> {
        let message = ids.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        Sender::of(&message)
    }

    #[test]
    fn ids_resolve_as_apple_means_them() {
        use EnrollmentKind as K;
        type Ids = &'static [(&'static str, &'static str)];
        let table: [(Ids, &str, Option<&str>, K); 9] = [
            (&[("UDID", "A")], "A", None, K::Device),
            (&[("UDID", "A"), ("UserID", "U")], "A:U", Some("A"), K::User),
            (
                &[("UDID", "A"), ("UserID", SHARED_IPAD_USER), ("UserShortName", "kim")],
                "A:kim",
                Some("A"),
                K::SharedIpad,
            ),
            (&[("EnrollmentID", "E")], "E", None, K::UserEnrollmentDevice),
            (&[("EnrollmentID", "E"), ("EnrollmentUserID", "V")], "E:V", Some("E"), K::UserEnrollment),
            (&[("UDID", "A"), ("EnrollmentID", "E")], "A", None, K::Device),
            (&[("UDID", "A"), ("EnrollmentID", "E"), ("EnrollmentUserID", "V")], "A", None, K::Device),
            (&[("UDID", ""), ("EnrollmentID", "E")], "E", None, K::UserEnrollmentDevice),
            (&[("UDID", "A"), ("UserID", "")], "A", None, K::Device),
        ];
        for (ids, id, parent, kind) in table {
            let found = sender(ids).unwrap().apple_id;
            assert_eq!(found, AppleId { id: id.to_owned(), parent: parent.map(str::to_owned), kind }, "{ids:?}");
        }
    }

    #[test]
    fn ids_that_cannot_be_kept_are_refused() {
        assert_eq!(sender(&[]), Err(DecodeError::Missing("UDID")));
        assert_eq!(sender(&[("UDID", "A"), ("UserID", SHARED_IPAD_USER)]), Err(DecodeError::Missing("UserShortName")));
        for id in ["A:B", "A\u{0}", "A\u{FFFD}", "A\n", &"A".repeat(256)] {
            assert_eq!(sender(&[("UDID", id)]), Err(DecodeError::BadId("UDID")), "{id:?}");
        }
    }
}
