//! What `muster demo` says when it fails; that it succeeds is for `make demo`.

use crate::support::program::muster;

#[test]
fn a_demo_that_fails_early_says_so_in_its_last_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let keys = file.join("keys").display().to_string();
    let ended = muster(&["demo", "--once", "--devices", "2", "--keys", &keys], &[]).with(1);
    let summary: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(summary["verified"], false, "{summary}");
    let error = summary["error"].as_str().unwrap();
    assert!(ended.stderr.contains(error), "{}", ended.stderr);
}
