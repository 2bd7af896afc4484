//! Apps on a device. Source: Apple, "InstallApplication", "InstalledApplicationList", "ManagedApplicationList".

use std::collections::BTreeMap;

use plist::{Dictionary, Value};

use super::fault::Fault;
use super::profile::optional_text;

/// An installed app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its bundle identifier.
    pub identifier: String,
    /// Its name.
    pub name: String,
    /// `CFBundleVersion`.
    pub version: String,
    /// Its size, bytes.
    pub size: u64,
    /// Whether the server manages it.
    pub managed: bool,
    /// `ManagementFlags`.
    pub flags: i64,
    /// Whether the server gave it a configuration.
    pub configured: bool,
}

impl App {
    /// An app that its user has installed.
    #[must_use]
    pub fn of_the_user(identifier: &str) -> Self {
        Self {
            identifier: identifier.to_owned(),
            name: identifier.rsplit('.').next().unwrap_or(identifier).to_owned(),
            version: "1".to_owned(),
            size: 1_000_000,
            managed: false,
            flags: 0,
            configured: false,
        }
    }
}

/// Installs an app; gives the members of the report.
pub(super) fn install(
    apps: &mut BTreeMap<String, App>,
    payload: &Dictionary,
    fetched: Option<Result<App, Fault>>,
) -> Result<Dictionary, Fault> {
    let mut app = match fetched {
        Some(fetched) => fetched?,
        None => App::of_the_user(&store_identifier(payload)?),
    };
    app.managed = true;
    app.flags = payload.get("ManagementFlags").and_then(Value::as_signed_integer).unwrap_or(0);
    app.configured = payload.get("Configuration").is_some_and(|value| value.as_dictionary().is_some());
    let take_over = payload.get("ChangeManagementState").and_then(Value::as_string) == Some("Managed");
    if apps.get(&app.identifier).is_some_and(|own| !own.managed) && !take_over {
        return Err(Fault::new("MCMDMErrorDomain", 12_026, "The app is already installed."));
    }
    let mut members = Dictionary::new();
    members.insert("Identifier".to_owned(), Value::from(app.identifier.as_str()));
    members.insert("State".to_owned(), Value::from("Installing"));
    apps.insert(app.identifier.clone(), app);
    Ok(members)
}

/// The app that the store has under a number is not known here: its identifier is made of the number.
fn store_identifier(payload: &Dictionary) -> Result<String, Fault> {
    if let Some(identifier) = optional_text(payload, "Identifier") {
        return Ok(identifier);
    }
    let number = payload.get("iTunesStoreID").and_then(Value::as_unsigned_integer);
    let number = number.ok_or_else(|| Fault::bad_command("The command names no app."))?;
    Ok(format!("com.example.store.{number}"))
}

pub(super) fn remove(apps: &mut BTreeMap<String, App>, payload: &Dictionary) -> Result<(), Fault> {
    let identifier = payload.get("Identifier").and_then(Value::as_string);
    let identifier = identifier.ok_or_else(|| Fault::bad_command("The command has no Identifier."))?;
    if apps.get(identifier).is_some_and(|app| app.managed) {
        apps.remove(identifier);
        return Ok(());
    }
    Err(Fault::new("MCMDMErrorDomain", 12_027, format!("The app “{identifier}” is not managed.")))
}

pub(super) fn installed_list(apps: &BTreeMap<String, App>, payload: &Dictionary) -> Value {
    let managed_only = super::profile::flag(payload, "ManagedAppsOnly");
    let wanted = wanted(payload);
    let listed = apps.values().filter(|app| is_wanted(app, &wanted) && (app.managed || !managed_only));
    Value::Array(listed.map(installed).collect())
}

pub(super) fn managed_list(apps: &BTreeMap<String, App>, payload: &Dictionary) -> Value {
    let wanted = wanted(payload);
    let listed = apps.values().filter(|app| app.managed && is_wanted(app, &wanted));
    Value::Dictionary(listed.map(|app| (app.identifier.clone(), managed(app))).collect())
}

fn wanted(payload: &Dictionary) -> Option<Vec<&str>> {
    let identifiers = payload.get("Identifiers")?.as_array()?;
    Some(identifiers.iter().filter_map(Value::as_string).collect())
}

fn is_wanted(app: &App, wanted: &Option<Vec<&str>>) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted.contains(&app.identifier.as_str()))
}

fn installed(app: &App) -> Value {
    let mut item = Dictionary::new();
    item.insert("Identifier".to_owned(), Value::from(app.identifier.as_str()));
    item.insert("Name".to_owned(), Value::from(app.name.as_str()));
    item.insert("Version".to_owned(), Value::from(app.version.as_str()));
    item.insert("ShortVersion".to_owned(), Value::from(app.version.as_str()));
    item.insert("BundleSize".to_owned(), Value::from(app.size));
    item.insert("Installing".to_owned(), Value::from(false));
    Value::Dictionary(item)
}

fn managed(app: &App) -> Value {
    let mut item = Dictionary::new();
    item.insert("Status".to_owned(), Value::from("Managed"));
    item.insert("ManagementFlags".to_owned(), Value::from(app.flags));
    item.insert("HasConfiguration".to_owned(), Value::from(app.configured));
    item.insert("HasFeedback".to_owned(), Value::from(false));
    item.insert("IsValidated".to_owned(), Value::from(true));
    Value::Dictionary(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pairs: Vec<(&str, Value)>) -> Dictionary {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    #[test]
    fn apps_come_show_up_and_go() {
        let mut apps = BTreeMap::new();
        let store = payload(vec![("iTunesStoreID", Value::from(361_309_726)), ("ManagementFlags", Value::from(1))]);
        let members = install(&mut apps, &store, None).unwrap();
        let id = Value::from("com.example.store.361309726");
        assert_eq!(members.get("Identifier"), Some(&id));
        assert_eq!(installed_list(&apps, &Dictionary::new()).as_array().unwrap().len(), 1);
        assert_eq!(managed_list(&apps, &Dictionary::new()).as_dictionary().unwrap().len(), 1);
        let other = payload(vec![("Identifiers", Value::Array(vec![Value::from("org.example.other")]))]);
        assert!(installed_list(&apps, &other).as_array().unwrap().is_empty());
        remove(&mut apps, &payload(vec![("Identifier", id)])).unwrap();
        assert!(apps.is_empty());
    }

    #[test]
    fn the_users_apps_are_taken_over_only_when_asked() {
        let own = App::of_the_user("org.example.notes");
        let mut apps = BTreeMap::from([(own.identifier.clone(), own)]);
        let plain = payload(vec![("Identifier", Value::from("org.example.notes"))]);
        assert_eq!(install(&mut apps, &plain, None).unwrap_err().code, 12_026);
        assert_eq!(remove(&mut apps, &plain).unwrap_err().code, 12_027);
        let take_over = payload(vec![
            ("Identifier", Value::from("org.example.notes")),
            ("ChangeManagementState", Value::from("Managed")),
        ]);
        install(&mut apps, &take_over, None).unwrap();
        assert!(apps["org.example.notes"].managed);
    }
}
