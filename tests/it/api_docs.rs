//! The tables in `docs/api` are what the program does. With `MUSTER_WRITE_DOCS` set they are written anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use muster::http::api::CODES;
use muster::http::api::roles::RULES;
use muster::model::Role;

const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api").join(name)
}

/// The routes of a page's table, with the roles that it gives them: `(method, path, least role)`.
pub fn documented_roles() -> Vec<(String, String, Role)> {
    let text = std::fs::read_to_string(page("roles.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (method, path) = cells[0].trim_matches('`').split_once(' ').unwrap();
        let least = ROLES.into_iter().zip(&cells[1..]).find(|(_, cell)| **cell == "✓").unwrap().0;
        for (role, cell) in ROLES.into_iter().zip(&cells[1..]) {
            assert_eq!(*cell == "✓", role >= least, "each role may do all that the ones before it may: {row}");
        }
        (method.to_owned(), path.to_owned(), least)
    })
    .collect()
}

/// Compares what stands between the marks of a page with what should, or writes it.
fn compare(name: &str, table: &str) {
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let text = std::fs::read_to_string(page(name)).unwrap();
    let (before, rest) = text.split_once(begin).unwrap();
    let (between, after) = rest.split_once(end).unwrap();
    if std::env::var_os("MUSTER_WRITE_DOCS").is_some() {
        std::fs::write(page(name), format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(between, table, "docs/api/{name} is behind; run this test with MUSTER_WRITE_DOCS=1");
    }
}

#[test]
fn the_table_of_roles_is_the_one_that_is_enforced() {
    let mut table = "| route | viewer | operator | admin |\n|---|---|---|---|\n".to_owned();
    for rule in RULES {
        let cells = ROLES.map(|role| if role >= rule.role { "✓" } else { "" });
        writeln!(table, "| `{} {}` | {} |", rule.method, rule.path, cells.join(" | ")).unwrap();
    }
    compare("roles.md", &table);
}

#[test]
fn the_table_of_codes_is_complete() {
    let mut table = "| code | status | means |\n|---|---|---|\n".to_owned();
    for (code, status, about) in CODES {
        writeln!(table, "| `{code}` | {status} | {about} |").unwrap();
    }
    compare("errors.md", &table);
}

#[test]
fn every_code_in_the_source_is_documented() {
    let known: BTreeSet<_> = CODES.iter().map(|(code, ..)| *code).collect();
    // Those that only devices and the NanoMDM interface get, whose answers have no codes.
    let for_devices = ["bad_certificate", "bad_message", "bad_scep_message", "command_uuid", "unlock"];
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service")];
    open.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/api"));
    let mut found = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for begin in ["Error::invalid(", "Error::conflict(", "code: \""] {
            for rest in text.split(begin).skip(1) {
                let code = rest.trim_start().trim_start_matches('"').split('"').next().unwrap();
                if !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                    let is_known = known.contains(code) || for_devices.contains(&code);
                    assert!(is_known, "{}: {code} is not in the list of codes", path.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 30, "the search finds what it is for: {found}");
}
