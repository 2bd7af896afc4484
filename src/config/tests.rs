use std::path::Path;

use super::settings::Settings;
use super::*;

const LEAST: &str = "public_url = \"https://mdm.example.org\"\n";

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Faults> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::parse(Path::new("muster.toml"), text, environment)
}

/// The faults, a line each.
fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match parse(text, environment) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn the_least_is_enough() {
    let settings = parse(LEAST, &[]).unwrap();
    assert_eq!(settings.public_url.as_str(), "https://mdm.example.org");
    assert_eq!(settings.database.url, DatabaseUrl::Sqlite("data/muster.db".into()));
    assert_eq!(settings.master_key.file.as_path(), Path::new("data/master.key"));
    assert_eq!(settings.devices.tls, DeviceTls::Own);
    assert_eq!(settings.pages_url(), &settings.public_url);
    assert!(settings.devices.tls_certificate.is_none());
}

#[test]
fn five_faults_are_five_lines() {
    let text = "\
public_url = \"http://mdm.example.org\"

[devices]
listen = \"localhost\"
identity_grace = 90

[database]
max_conections = 5
";
    let found = faults(text, &[("MUSTER_ADMIN_LISTEN", "0.0.0.0:8080")]);
    assert_eq!(
        found,
        [
            "muster.toml:1: public_url: \"http://mdm.example.org\" is not https, which devices demand; expected an https \
             URL of nothing but a host and perhaps a port, such as https://mdm.example.org",
            "muster.toml:4: devices.listen: \"localhost\" has no port; expected ADDRESS:PORT, such as 0.0.0.0:8443 or \
             [::]:8443",
            "muster.toml:5: devices.identity_grace: 90 has no unit; expected a number with a unit (ms, s, m, h, d), such \
             as \"90s\", \"3h\" or \"30d\"",
            "muster.toml:8: database.max_conections: there is no such setting; expected a known one; the nearest is \
             database.max_connections",
            "MUSTER_ADMIN_LISTEN: 0.0.0.0:8080 can be reached by others, and tokens would cross the network unencrypted; \
             expected a loopback address, or admin.tls_certificate and admin.tls_key, or admin.behind_proxy = true",
        ]
    );
}

#[test]
fn what_is_no_toml_is_reported_with_its_lines() {
    let found = faults("public_url = \n[devices]\nlisten = \"nowhere\"\n= 3\n", &[]);
    assert!(found.iter().any(|line| line.starts_with("muster.toml:1: is no TOML")), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("muster.toml:3: devices.listen")), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("muster.toml:4: is no TOML")), "{found:?}");
    assert!(!found.iter().any(|line| line.contains("is missing")), "{found:?}");
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let faults = load(Path::new("/nonexistent/muster.toml"), []).unwrap_err().to_string();
    assert!(faults.starts_with("/nonexistent/muster.toml: cannot be opened"), "{faults}");
    assert!(faults.contains("muster init"), "{faults}");
}

#[test]
fn the_environment_wins() {
    let text = format!("{LEAST}[devices]\nlisten = \"0.0.0.0:1\"\n");
    let environment = [
        ("MUSTER_DEVICES_LISTEN", "0.0.0.0:9443"),
        ("MUSTER_DATA_DIR", "/var/lib/muster"),
        ("MUSTER_PROXY_TRUSTED", "10.0.0.1, 10.1.0.0/16"),
        ("MUSTER_SCEP_ALLOW_LEGACY_ALGORITHMS", "true"),
        ("MUSTER_DATABASE_MAX_CONNECTIONS", "40"),
        ("MUSTER_ORGANIZATION_NAME", ""),
        ("PATH", "/bin"),
    ];
    let settings = parse(&text, &environment).unwrap();
    assert_eq!(settings.devices.listen.port(), 9443);
    assert_eq!(settings.database.url, DatabaseUrl::Sqlite("/var/lib/muster/muster.db".into()));
    assert_eq!(settings.proxy.trusted.len(), 2);
    assert!(settings.scep.allow_legacy_algorithms);
    assert_eq!(settings.database.max_connections, 40);
    assert_eq!(settings.organization.name, "Our organization");
}

#[test]
fn unknown_variables_are_faults_but_not_those_of_others() {
    let found =
        faults(LEAST, &[("MUSTER_DEVICES_LISTN", "x"), ("MUSTER_SERVICE_HOST", "x"), ("MUSTER_PORT_8443_TCP", "x")]);
    assert_eq!(
        found,
        ["MUSTER_DEVICES_LISTN: there is no such setting; expected a known one; the nearest is MUSTER_DEVICES_LISTEN"]
    );
}

#[test]
fn secrets_are_shown_neither_by_debug_nor_by_faults() {
    let environment = [
        ("MUSTER_DATABASE_URL", "postgres://muster:hunter2@db.example.org/muster"),
        ("MUSTER_METRICS_TOKEN", "hunter2hunter2hunter2"),
        ("MUSTER_MASTER_KEY", "hunter2"),
    ];
    let settings = parse(LEAST, &environment).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(settings.master_key_text.as_ref().map(|key| key.expose().as_str()), Some("hunter2"));
    for wrong in ["hunter2", "mysql://muster:hunter2@db.example.org/muster"] {
        let found = faults(LEAST, &[("MUSTER_DATABASE_URL", wrong), ("MUSTER_METRICS_TOKEN", "hunter2")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(!found.concat().contains("hunter2"), "{found:?}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (settings, key) in [
        ("[devices]\ntls = \"behind_proxy\"", "devices.tls"),
        ("[devices]\ntls = \"files\"\ntls_key = \"key.pem\"", "devices.tls_certificate"),
        ("[devices]\ntls_certificate = \"cert.pem\"", "devices.tls_certificate"),
        ("[admin]\nlisten = \"192.0.2.1:8080\"", "admin.listen"),
        ("[admin]\nlisten = \"192.0.2.1:8080\"\nbehind_proxy = true", "admin.behind_proxy"),
        ("[admin]\ntls_key = \"key.pem\"", "admin.tls_key"),
        ("[admin]\nlisten = \"127.0.0.1:8443\"\n[devices]\nlisten = \"127.0.0.1:8443\"", "admin.listen"),
        ("[proxy]\ntrusted = [\"0.0.0.0/0\"]", "proxy.trusted"),
        ("[pages]\nlisten = \"0.0.0.0:8444\"", "pages.listen"),
        ("[pages]\npublic_url = \"https://mdm.example.org:8444\"", "pages.public_url"),
        ("[pages]\npublic_url = \"https://192.0.2.1\"", "pages.public_url"),
        ("[vendor]\nkey = \"key.pem\"", "vendor.key"),
        ("[database]\ndirect_url = \"postgres://db.example.org/muster\"", "database.direct_url"),
        ("[enrollment]\naccess_rights = 8192", "enrollment.access_rights"),
        ("[enrollment]\nprofile_identifier = \"with space\"", "enrollment.profile_identifier"),
        (
            "[devices]\ntls = \"behind_proxy\"\n[proxy]\ntrusted = [\"10.0.0.1\"]\n[profiles]\nsigning = \"tls\"",
            "profiles.signing",
        ),
        ("[organization]\nname = \" \"", "organization.name"),
        ("[compat]\nnanomdm = \"short\"", "compat.nanomdm"),
        ("[compat]\nmax_destructive_targets = 0", "compat.max_destructive_targets"),
        ("[compat]\ndeclarative_management_key = \"0123456789abcdef\"", "compat.declarative_management_key"),
        ("[hooks]\nallow = [\"10.0.0\"]", "hooks.allow"),
        ("[scep]\ncertificate_lifetime = \"1h\"", "scep.certificate_lifetime"),
        ("[log]\nlevel = \"loud=very\"", "log.level"),
        ("[devics]\nlisten = \"0.0.0.0:1\"", "devics"),
        ("devices = 3", "devices"),
        ("devices.listen.port = 3", "devices.listen"),
    ] {
        let found = faults(&format!("{LEAST}{settings}\n"), &[]);
        assert_eq!(found.len(), 1, "{settings}: {found:?}");
        assert!(found[0].contains(&format!(" {key}: ")), "{settings}: {found:?}");
    }
}

#[test]
fn what_goes_together_is_accepted() {
    for settings in [
        "[devices]\ntls = \"behind_proxy\"\n[proxy]\ntrusted = [\"10.0.0.1\"]",
        "[devices]\ntls = \"files\"\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"\n[profiles]\nsigning = \"tls\"",
        "[admin]\nlisten = \"0.0.0.0:8080\"\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"",
        "[pages]\npublic_url = \"https://enroll.example.org\"",
        "[pages]\npublic_url = \"https://mdm.example.org:8444\"\nlisten = \"0.0.0.0:8444\"",
        "[log]\nlevel = \"info,muster::remote=debug\"",
        "[devices]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"",
    ] {
        assert_eq!(faults(&format!("{LEAST}{settings}\n"), &[]), [""; 0], "{settings}");
    }
}

#[test]
fn the_written_file_loads_and_holds_every_setting() {
    let text = template(&[("public_url", "\"https://muster.example.org\"".to_owned())]);
    let settings = parse(&text, &[]).unwrap();
    assert_eq!(settings.public_url.as_str(), "https://muster.example.org");
    let mut section = "";
    let mut written = Vec::new();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = path;
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && !line.starts_with("# ")
        {
            written.push(reader::join(section, key));
        }
    }
    let all = Settings::SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| reader::join(section.path, key.name)).collect::<Vec<_>>());
    assert_eq!(written, all.collect::<Vec<_>>());
}

#[test]
fn every_default_and_every_example_can_be_read() {
    for section in Settings::SECTIONS {
        for key in section.keys {
            let line = format!("{} = {}", key.name, key.preset.toml());
            let text = match section.path {
                "" if key.name == "public_url" => format!("{line}\n"),
                "" => format!("{LEAST}{line}\n"),
                path => format!("{LEAST}[{path}]\n{line}\n"),
            };
            let found = faults(&text, &[]);
            // An example alone may lack its partner; it must not be unreadable.
            let partner = ["without", "would not be used", "a URL for it", "leads past a pooler"];
            let unreadable: Vec<_> =
                found.iter().filter(|fault| !partner.iter().any(|why| fault.contains(why))).collect();
            assert!(unreadable.is_empty(), "{unreadable:?}");
        }
    }
}

#[test]
fn no_two_settings_share_a_variable() {
    let mut names: Vec<_> = Settings::SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| reader::variable(&reader::join(section.path, key.name))))
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(!names.contains(&"MUSTER_MASTER_KEY".to_owned()));
}

/// To write it anew: `MUSTER_TEST_WRITE=yes cargo test --lib config::`.
#[test]
fn the_documentation_lists_every_setting() {
    let page = format!(
        "# Settings\n\nThis is the file that `muster init` writes. Every setting is in it, with its default or, where it \
         has\nnone, the form of one. All faults in it are reported together, each with its line; unknown settings are\n\
         faults too.\n\nEach setting can also be given by an environment variable, which wins over the file: its full name \
         in\ncapitals with `_` for `.` after `MUSTER_`, such as `MUSTER_DEVICES_LISTEN`; lists are separated by\ncommas, and \
         an empty variable counts as none. `MUSTER_MASTER_KEY` holds the master key itself,\n`MUSTER_CONFIG` the path of \
         the file.\n\n```toml\n{}```\n",
        template(&[])
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/settings.md");
    if std::env::var_os("MUSTER_TEST_WRITE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == page, "docs/operate/settings.md is out of date");
}
