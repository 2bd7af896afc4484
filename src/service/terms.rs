//! What an enrollment profile lays down that may not change on a device, kept for each enrollment: the profile's
//! identifier, the server's URLs, the rights.
//!
//! A device takes another profile in place of its own only where these agree. So whatever has become of the settings
//! since, a renewal says what the profile on the device says, and the identifier of that profile is what removes it.

use plist::{Dictionary, Value};

use super::{App, Error};
use crate::config::Settings;
use crate::model::{Sha256, Timestamp};
use crate::store::{EnabledUnder, Enrollment, TermsRow, Write};

/// Longest identifier that is taken over from a device's list of profiles, in bytes.
const MAX_IDENTIFIER: usize = 1024;
/// The payload that makes a profile an enrollment profile.
const MDM: &str = "com.apple.mdm";

/// What an enrollment profile lays down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The profile's `PayloadIdentifier`.
    pub(super) identifier: String,
    /// Where reports go.
    pub(super) server_url: String,
    /// Where check-ins go.
    pub(super) checkin_url: String,
    /// Apple's bits.
    pub(super) access_rights: u32,
}

impl Terms {
    /// For a new enrollment: what the settings say.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            identifier: settings.enrollment.profile_identifier.clone(),
            server_url: settings.public_url.at("/mdm"),
            checkin_url: settings.public_url.at("/checkin"),
            access_rights: settings.enrollment.access_rights,
        }
    }

    /// For a profile that replaces the one on a device: what that says, with those of its rights that the settings
    /// still name. Rights can be taken away, never added; where the settings share none with it, all stay, since a
    /// profile without rights is none. None where the profile was made elsewhere.
    pub(super) fn renewing(row: &TermsRow, settings: &Settings) -> Option<Self> {
        let held = u32::try_from(row.access_rights?).ok()?;
        let left = held & settings.enrollment.access_rights;
        Some(Self {
            identifier: row.identifier.clone(),
            server_url: row.server_url.clone()?,
            checkin_url: row.checkin_url.clone()?,
            access_rights: if left == 0 { held } else { left },
        })
    }

    /// Keeps them, and returns the hash that names them.
    pub(super) async fn keep(&self, tx: &mut Write, now: Timestamp) -> Result<Sha256, Error> {
        let row = row(
            self.identifier.clone(),
            Some((self.server_url.clone(), self.checkin_url.clone(), i64::from(self.access_rights))),
        );
        tx.put_terms(&row, now).await?;
        Ok(row.sha256)
    }
}

/// A row, named by the hash of what stands in it.
fn row(identifier: String, known: Option<(String, String, i64)>) -> TermsRow {
    let sha256 = Sha256::of(serde_json::json!([identifier, known]).to_string().as_bytes());
    let (server_url, checkin_url, access_rights) = match known {
        Some((server, checkin, rights)) => (Some(server), Some(checkin), Some(rights)),
        None => (None, None, None),
    };
    TermsRow { sha256, identifier, server_url, checkin_url, access_rights }
}

/// The identifiers of the enrollment profiles of these enrollments, each once; none for those that are not known.
pub(super) async fn profile_identifiers(
    tx: &mut Write,
    enrollments: &[Enrollment],
) -> Result<Vec<Option<String>>, Error> {
    let mut hashes: Vec<_> = enrollments.iter().map(|enrollment| enrollment.terms).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let mut identifiers = Vec::with_capacity(hashes.len());
    for hash in hashes {
        identifiers.push(match hash {
            Some(hash) => tx.terms(hash).await?.map(|row| row.identifier),
            None => None,
        });
    }
    Ok(identifiers)
}

/// The terms that still hold when a device enrolls anew with a certificate that it had: those of a profile of this
/// server, as the certificate came with that one. What was learned of a profile that was made elsewhere does not: the same
/// certificate may be in another profile now.
pub(super) async fn made_here(tx: &mut Write, terms: Option<Sha256>) -> Result<Option<Sha256>, Error> {
    let row = match terms {
        Some(hash) => tx.terms(hash).await?,
        None => None,
    };
    Ok(row.filter(|row| row.server_url.is_some()).map(|row| row.sha256))
}

/// Learns the identifier of an enrollment profile that was made elsewhere from the list of all profiles on the device.
/// What a later list says replaces what an earlier one said.
pub(super) async fn learn(
    tx: &mut Write,
    enrollment: &Enrollment,
    profiles: &Value,
    now: Timestamp,
) -> Result<(), Error> {
    if made_here(tx, enrollment.terms).await?.is_some() {
        return Ok(());
    }
    let profiles = profiles.as_array().into_iter().flatten().filter_map(Value::as_dictionary);
    let identifier = profiles.filter(|profile| enrolls(profile)).find_map(|profile| {
        let identifier = profile.get("PayloadIdentifier")?.as_string()?;
        (!identifier.is_empty() && identifier.len() <= MAX_IDENTIFIER && !identifier.contains('\0'))
            .then(|| identifier.to_owned())
    });
    if let Some(identifier) = identifier {
        let row = row(identifier, None);
        if enrollment.terms != Some(row.sha256) {
            tx.put_terms(&row, now).await?;
            tx.set_terms(enrollment.id, Some(row.sha256)).await?;
        }
    }
    Ok(())
}

fn enrolls(profile: &Dictionary) -> bool {
    let payloads = profile.get("PayloadContent").and_then(Value::as_array).into_iter().flatten();
    payloads
        .filter_map(Value::as_dictionary)
        .any(|payload| payload.get("PayloadType").and_then(Value::as_string) == Some(MDM))
}

/// Enabled devices whose profile differs from what the settings say now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// All enabled devices.
    pub devices: i64,
    /// Their profile has another identifier.
    pub identifier: i64,
    /// They send their messages to another URL.
    pub url: i64,
    /// They lack rights that the settings name: these cannot be added.
    pub rights: i64,
    /// Their profile was made elsewhere: its URLs, and perhaps its identifier, are not known.
    pub elsewhere: i64,
}

impl Differing {
    /// Compares them.
    #[must_use]
    pub fn between(enabled: &[EnabledUnder], settings: &Settings) -> Self {
        let now = Terms::of(settings);
        let mut all = Self::default();
        for under in enabled {
            let count = |differs: bool| if differs { under.enrollments } else { 0 };
            all.devices += under.enrollments;
            let (Some(identifier), Some(server_url), Some(rights)) =
                (&under.identifier, &under.server_url, under.access_rights)
            else {
                all.elsewhere += under.enrollments;
                continue;
            };
            all.identifier += count(*identifier != now.identifier);
            all.url += count(*server_url != now.server_url || under.checkin_url.as_ref() != Some(&now.checkin_url));
            all.rights += count(i64::from(now.access_rights) & !rights != 0);
        }
        all
    }

    /// What differs and what that means, a sentence each. Profiles from elsewhere are no difference.
    #[must_use]
    pub fn sentences(&self) -> Vec<(String, &'static str)> {
        let of = |count: i64| format!("{count} of {} enabled devices", self.devices);
        let mut sentences = Vec::new();
        if self.url > 0 {
            let found = format!("{} send their messages to another URL than public_url says", of(self.url));
            sentences.push((
                found,
                "it must go on to lead to this server, with a certificate for its name; they take another URL only by \
                 enrolling anew",
            ));
        }
        if self.identifier > 0 {
            let found = format!("{} have a profile with another identifier than the settings say", of(self.identifier));
            sentences.push((found, "nothing is to be done: they keep it, and renewals and unenroll use it"));
        }
        if self.rights > 0 {
            let found = format!("{} lack rights that enrollment.access_rights names", of(self.rights));
            sentences.push((found, "rights cannot be added to an enrolled device: it has to enroll anew"));
        }
        sentences
    }
}

/// How the profiles of the enabled devices differ from what the settings say now.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn differing(app: &App) -> Result<Differing, Error> {
    let enabled = app.store.begin_read().await?.enabled_by_terms().await?;
    Ok(Differing::between(&enabled, &app.settings))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(text: &str) -> Settings {
        let text = format!("public_url = \"https://mdm.example.org\"\n{text}");
        Settings::parse(Path::new("muster.toml"), &text, []).unwrap()
    }

    fn under(terms: &Terms, enrollments: i64) -> EnabledUnder {
        EnabledUnder {
            identifier: Some(terms.identifier.clone()),
            server_url: Some(terms.server_url.clone()),
            checkin_url: Some(terms.checkin_url.clone()),
            access_rights: Some(i64::from(terms.access_rights)),
            enrollments,
        }
    }

    #[test]
    fn rights_are_taken_away_and_never_added() {
        let rights = |held: i64, now: u32| {
            let row = row("a".to_owned(), Some(("https://s".to_owned(), "https://c".to_owned(), held)));
            Terms::renewing(&row, &settings(&format!("[enrollment]\naccess_rights = {now}"))).unwrap().access_rights
        };
        assert_eq!(rights(8191, 3), 3);
        assert_eq!(rights(3, 8191), 3);
        assert_eq!(rights(3, 4), 3, "a profile without rights is none");
        assert_eq!(Terms::renewing(&row("a".to_owned(), None), &settings("")), None);
    }

    #[test]
    fn only_what_matters_is_told() {
        let now = Terms::of(&settings(""));
        let other = Terms { identifier: "other".to_owned(), access_rights: 3, ..now.clone() };
        let moved = Terms { server_url: "https://old.example.org/mdm".to_owned(), ..now.clone() };
        let elsewhere = EnabledUnder { server_url: None, checkin_url: None, access_rights: None, ..under(&other, 5) };
        let enabled = [under(&now, 10), under(&other, 2), under(&moved, 3), elsewhere];
        let found = Differing::between(&enabled, &settings(""));
        assert_eq!(found, Differing { devices: 20, identifier: 2, url: 3, rights: 2, elsewhere: 5 });
        assert_eq!(found.sentences().len(), 3);
        assert_eq!(Differing::between(&enabled[..1], &settings("")).sentences(), []);
    }
}
