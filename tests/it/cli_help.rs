//! What the program says of itself.

use crate::support::program::muster;

#[test]
fn the_help_of_each_subcommand() {
    let mut all = String::new();
    for line in [
        "--help",
        "init --help",
        "serve --help",
        "demo --help",
        "simulate devices --help",
        "simulate apns --help",
        "migrate --help",
        "token --help",
        "token create --help",
        "token list --help",
        "token revoke --help",
        "backup --help",
        "restore --help",
        "held --help",
        "held list --help",
        "held release --help",
        "held cancel --help",
        "webhook --help",
        "webhook add --help",
        "webhook list --help",
        "webhook show --help",
        "webhook remove --help",
        "webhook pause --help",
        "webhook resume --help",
        "webhook test --help",
        "webhook dead --help",
        "webhook replay --help",
        "import nanomdm --help",
        "doctor --help",
        "rotate-key --help",
        "openapi --help",
        "completions --help",
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        let ended = muster(&arguments, &[]).with(0);
        assert_eq!(ended.stderr, "");
        all.push_str(&format!("$ muster {line}\n{}\n", ended.stdout));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn the_description_of_the_api_is_printed_without_any_settings() {
    let ended = muster(&["openapi"], &[]).with(0);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"].as_object().unwrap().len() > 1);
}

#[test]
fn five_faults_in_the_settings_are_told_at_once() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("muster.toml");
    let text = "public_url = \"http://mdm.example.org\"\n\
                [devices]\nlisten = \"localhost\"\ntls = \"maybe\"\n\
                [database]\nmax_connections = 0\n\
                [log]\nformat = \"xml\"\n";
    std::fs::write(&file, text).unwrap();
    let config = file.to_str().unwrap();
    for arguments in [["serve", "--config", config], ["migrate", "--config", config]] {
        let ended = muster(&arguments, &[]).with(2);
        assert_eq!(ended.stderr.lines().count(), 5, "{}", ended.stderr);
        for (line, key) in [
            (1, "public_url"),
            (3, "devices.listen"),
            (4, "devices.tls"),
            (6, "database.max_connections"),
            (8, "log.format"),
        ] {
            assert!(ended.stderr.contains(&format!("{config}:{line}: {key}: ")), "{key}: {}", ended.stderr);
        }
    }
    let doctor = muster(&["doctor", "--config", config], &[]).with(1);
    let faults = doctor.stdout.lines().filter(|line| line.starts_with("FAIL  settings ")).count();
    assert_eq!(faults, 5, "{}", doctor.stdout);
}

#[test]
fn settings_that_are_not_there_are_told_with_what_to_do() {
    let ended = muster(&["serve", "--config", "/nowhere/muster.toml"], &[]).with(2);
    assert!(ended.stderr.contains("/nowhere/muster.toml: cannot be opened"), "{}", ended.stderr);
    assert!(ended.stderr.contains("muster init"), "{}", ended.stderr);
}
