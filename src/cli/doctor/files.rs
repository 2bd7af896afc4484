//! What lies on the disk: the settings, the data directory, the master keys, and the room that is left.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::super::named::mode;
use super::super::open;
use super::finding::Report;
use crate::config::{DatabaseUrl, Settings};
use crate::pki::vault::Vault;

/// Less free space than this is too little for anything.
const TOO_LITTLE: u64 = 256 << 20;
/// Less than this will not last.
const LITTLE: u64 = 2 << 30;

/// That the settings were read, and that others cannot read the secrets in them.
pub(super) fn settings(report: &mut Report, settings: &Settings, file: &Path) {
    let shown = file.display();
    let password = matches!(&settings.database.url, DatabaseUrl::Postgres(url) if has_password(url.expose()));
    let compat = &settings.compat;
    let keys = [&settings.metrics.token, &compat.nanomdm, &compat.declarative_management_key];
    let has_secrets = password || keys.iter().any(|key| key.is_some());
    match mode(file) {
        Ok(mode) if has_secrets && mode & 0o077 != 0 => report.warn(
            "settings",
            format!("{shown} is readable by others (mode {mode:04o}) and there are secrets in the settings"),
            format!("chmod 600 {shown}"),
        ),
        _ => report.ok("settings", format!("{shown} is sound")),
    }
}

/// That the data directory is there, private and can be written to, and that there is room.
pub(super) fn data_directory(report: &mut Report, settings: &Settings) {
    let check = "data_directory";
    let directory = settings.data_dir.as_path();
    let shown = directory.display();
    let mode = match mode(directory) {
        Ok(mode) => mode,
        Err(why) => {
            report.fail(check, format!("{shown}: {why}"), "correct data_dir, or make it with `muster init DIRECTORY`");
            return;
        }
    };
    if !directory.is_dir() {
        report.fail(check, format!("{shown} is no directory"), "correct data_dir");
        return;
    }
    if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let action = "run this as the user that the server runs as, or give the directory to that user";
        report.fail(check, format!("{shown} cannot be written to by this user"), action);
    } else if mode & 0o022 != 0 {
        report.fail(check, format!("{shown} can be changed by others (mode {mode:04o})"), format!("chmod 700 {shown}"));
    } else if mode & 0o077 != 0 {
        report.warn(check, format!("{shown} is open to others (mode {mode:04o})"), format!("chmod 700 {shown}"));
    } else {
        report.ok(check, format!("{shown} is private"));
    }
    space(report, directory);
}

fn space(report: &mut Report, directory: &Path) {
    let check = "disk_space";
    let shown = directory.display();
    match statvfs(directory) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} free at {shown}", size(free));
            let action = "make room: without it nothing can be stored, and devices are told to come back later";
            if free < TOO_LITTLE {
                report.fail(check, found, action);
            } else if free < LITTLE || disk.f_favail < 1000 && disk.f_files > 0 {
                report.warn(check, found, action);
            } else {
                report.ok(check, found);
            }
        }
        Err(why) => report.warn(check, format!("not known for {shown}: {why}"), "look at it by other means"),
    }
}

/// That the master keys can be read, by this user alone. Returns the vault where they can.
pub(super) fn master_keys(report: &mut Report, settings: &Settings) -> Option<Vault> {
    let check = "master_key";
    let vault = match open::vault(settings) {
        Ok(vault) => vault,
        Err(why) => {
            let action = "put the key back from the backup: what is sealed in the database opens with that key alone";
            report.fail(check, why.to_string(), action);
            return None;
        }
    };
    let id = hex::encode(vault.active_key_id());
    let mut files: Vec<_> = settings.master_key.older.iter().map(|path| path.as_path()).collect();
    if settings.master_key_text.is_some() {
        report.ok(check, format!("{id}, from MUSTER_MASTER_KEY"));
    } else {
        files.insert(0, settings.master_key.file.as_path());
    }
    for (index, file) in files.iter().enumerate() {
        let shown = file.display();
        match mode(file) {
            Ok(mode) if mode & 0o077 != 0 => {
                let found =
                    format!("{shown} can be read by others (mode {mode:04o}): it opens every secret that is stored");
                report.fail(check, found, format!("chmod 600 {shown}"));
            }
            _ if index == 0 && settings.master_key_text.is_none() => {
                report.ok(check, format!("{id}, {shown}, private; the backup must hold a copy"));
            }
            _ => report.ok(check, format!("{shown}, an older key, private")),
        }
    }
    Some(vault)
}

fn has_password(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| url.password().is_some())
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}
