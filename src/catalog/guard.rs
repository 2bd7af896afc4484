use plist::{Dictionary, Value};

use crate::model::Resend;

/// What a request destroys, so that it needs a confirmation for more than one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destruction {
    /// It erases the device.
    Erase,
    /// It locks a Mac until someone enters the PIN.
    LockWithPin,
    /// It ends the management of the device.
    Unenroll,
}

impl Destruction {
    /// What it does, for a sentence such as "this erases 12 devices".
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Erase => "erases",
            Self::LockWithPin => "locks with a PIN",
            Self::Unenroll => "ends the management of",
        }
    }
}

/// The request types that take something from whoever holds the device, in lower case: those that nobody wants to see
/// done by a server that came back from a backup, beside all that is a [`Destruction`].
pub const HELD_AFTER_RESTORE: [&str; 4] = ["erasedevice", "devicelock", "clearpasscode", "clearrestrictionspassword"];

/// What the request destroys, judged by what goes to the device, whatever verb or entrance it came by.
///
/// `enrollment_profiles` are the identifiers of the enrollment profiles on the devices that it is for; none stands for
/// one that is not known, which any profile may be. They matter only for what [`removes_a_profile`].
///
/// It errs towards a question too many: request types and identifiers count in any case and with white space around
/// them, a PIN of any kind counts, and so does a removal of the enrollment profile of any one of the devices.
#[must_use]
pub fn destruction(
    request_type: &str,
    payload: &Dictionary,
    enrollment_profiles: &[Option<String>],
) -> Option<Destruction> {
    let is = |name: &str| request_type.trim().eq_ignore_ascii_case(name);
    if is("EraseDevice") {
        Some(Destruction::Erase)
    } else if is("DeviceLock") && has_pin(payload) {
        Some(Destruction::LockWithPin)
    } else if removes_a_profile(request_type) {
        let identifier = payload.get("Identifier").and_then(Value::as_string);
        // Without one, that of each device's own enrollment profile is filled in at delivery.
        let unenrolls = identifier.is_none_or(|identifier| {
            enrollment_profiles.iter().any(|enrollment| {
                enrollment.as_ref().is_none_or(|one| one.trim().eq_ignore_ascii_case(identifier.trim()))
            })
        });
        unenrolls.then_some(Destruction::Unenroll)
    } else {
        None
    }
}

/// Whether what a request of this type destroys depends on the enrollment profiles of the devices that it is for.
#[must_use]
pub fn removes_a_profile(request_type: &str) -> bool {
    request_type.trim().eq_ignore_ascii_case("RemoveProfile")
}

/// What may be done when the request was handed over and no report came.
#[must_use]
pub fn resend(request_type: &str, payload: &Dictionary) -> Resend {
    match request_type {
        "EraseDevice" => Resend::SameGeneration,
        "DeviceLock" if has_pin(payload) => Resend::ByAdminOnly,
        "RestartDevice" | "ShutDownDevice" => Resend::ByAdminOnly,
        _ => Resend::Freely,
    }
}

fn has_pin(payload: &Dictionary) -> bool {
    match payload.get("PIN") {
        None => false,
        Some(Value::String(pin)) => !pin.is_empty(),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENROLLMENT: &str = "org.example.muster.enrollment";

    fn payload(key: &str, value: impl Into<Value>) -> Dictionary {
        Dictionary::from_iter([(key, value.into())])
    }

    #[test]
    fn destruction_is_seen_in_the_request() {
        let table = [
            ("EraseDevice", Dictionary::new(), Some(Destruction::Erase)),
            ("erasedevice", Dictionary::new(), Some(Destruction::Erase)),
            ("DeviceLock", Dictionary::new(), None),
            ("DeviceLock", payload("PIN", ""), None),
            ("DeviceLock", payload("PIN", "123456"), Some(Destruction::LockWithPin)),
            ("DeviceLock", payload("PIN", 123_456), Some(Destruction::LockWithPin)),
            ("RemoveProfile", payload("Identifier", ENROLLMENT), Some(Destruction::Unenroll)),
            ("RemoveProfile", payload("Identifier", " Org.Example.Muster.Enrollment "), Some(Destruction::Unenroll)),
            ("RemoveProfile", payload("Identifier", "org.example.wifi"), None),
            ("RemoveApplication", payload("Identifier", ENROLLMENT), None),
        ];
        for (request_type, payload, expected) in table {
            let profiles = [Some("org.example.other".to_owned()), Some(ENROLLMENT.to_owned())];
            assert_eq!(destruction(request_type, &payload, &profiles), expected, "{request_type} {payload:?}");
        }
    }

    #[test]
    fn a_profile_that_is_not_known_may_be_the_one_that_is_removed() {
        let wifi = payload("Identifier", "org.example.wifi");
        let unenrolls = Some(Destruction::Unenroll);
        assert_eq!(destruction("RemoveProfile", &wifi, &[Some(ENROLLMENT.to_owned()), None]), unenrolls);
        assert_eq!(destruction("RemoveProfile", &wifi, &[]), None);
        assert_eq!(destruction("RemoveProfile", &Dictionary::new(), &[]), unenrolls, "its own is filled in");
        assert_eq!(destruction("RemoveApplication", &wifi, &[None]), None);
    }

    #[test]
    fn what_hurts_twice_is_not_sent_twice() {
        assert_eq!(resend("EraseDevice", &Dictionary::new()), Resend::SameGeneration);
        assert_eq!(resend("DeviceLock", &payload("PIN", "123456")), Resend::ByAdminOnly);
        assert_eq!(resend("DeviceLock", &Dictionary::new()), Resend::Freely);
        assert_eq!(resend("RestartDevice", &Dictionary::new()), Resend::ByAdminOnly);
        assert_eq!(resend("ShutDownDevice", &Dictionary::new()), Resend::ByAdminOnly);
        assert_eq!(resend("DeviceInformation", &Dictionary::new()), Resend::Freely);
    }
}
