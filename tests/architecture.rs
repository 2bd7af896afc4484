//! What must be absent, checked in the source: which room may import which, and what may stand in one room only. The
//! reasons are in `ARCHITECTURE.md`. Code under `#[cfg(test)]` is free.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is meant to fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import. A room that is not here is a fault: the table is the map.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("protocol", &["model"]),
    ("pki", &["model"]),
    ("catalog", &["model", "protocol"]),
    ("store", &["model"]),
    ("remote", &["model", "config"]),
    ("service", &["model", "config", "protocol", "pki", "catalog", "store", "remote"]),
    ("worker", &["model", "store", "service"]),
    ("http", &["model", "config", "protocol", "pki", "catalog", "store", "service"]),
    ("simulator", &["model", "protocol", "pki"]),
    (
        "cli",
        &["model", "config", "protocol", "pki", "catalog", "store", "remote", "service", "worker", "http", "simulator"],
    ),
];

/// Where another program's tables are read.
const FOREIGN_SQL: &str = "remote/nanomdm";

/// A word that may stand in some rooms, or directories of rooms, only, and why.
struct Confined {
    words: &'static [&'static str],
    rooms: &'static [&'static str],
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined { words: &["sqlx"], rooms: &["store", FOREIGN_SQL], why: "SQL lives in `store`" },
    Confined { words: &["openssl", "openssl_sys"], rooms: &["pki"], why: "openssl lives in `pki`" },
    Confined {
        words: &["begin_write"],
        rooms: &["store", "service", "worker"],
        why: "`service` and `worker` own the transactions",
    },
    Confined {
        words: &["disallowed_methods"],
        rooms: &["cli"],
        why: "wall clock and ambient randomness belong to the composition root",
    },
];

/// Rooms that compute and do nothing else.
const PURE: &[&str] = &["model", "protocol", "pki", "catalog"];
const IMPURE_WORDS: &[&str] = &["async", "await", "tokio", "TcpStream", "UdpSocket"];
const IMPURE_PATHS: &[&[&str]] = &[&["std", "fs"], &["std", "env"], &["std", "process"], &["std", "thread"]];

/// Names that say nothing of what is inside.
const SHAPELESS: &[&str] = &["util", "utils", "common", "types", "helpers", "misc", "shared"];

/// What reaches over the network; never between `begin_write` and `commit`.
const NETWORK: &[&str] = &["remote", "pusher", "reqwest", "hyper", "TcpStream"];

#[test]
fn the_source_keeps_to_the_map() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let rooms: BTreeSet<_> = files.keys().filter_map(|path| room_of(path)).collect();
    let known: BTreeSet<_> = ROOMS.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms, known, "the directories of src/ are the rooms of the table");
    let found = check(&files);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_check_finds_what_it_is_for() {
    for (path, text, fault) in [
        ("store/a.rs", "use crate::service::App;", "store may not import service"),
        ("store/a.rs", "use crate::{model::Id, http};", "store may not import http"),
        ("store/a.rs", "use crate::{model::{Id, Role}, http};", "store may not import http"),
        ("store/a.rs", "fn f() { crate::http::serve() }", "store may not import http"),
        ("store/a.rs", "use super::super::http;", "store may not import http"),
        ("store/mod.rs", "use super::http;", "store may not import http"),
        ("store/deep/a.rs", "use super::super::super::http;", "store may not import http"),
        ("simulator/a.rs", "use crate::service::App;", "simulator may not import service"),
        ("simulator/a.rs", "use muster::service::App;", "simulator may not import service"),
        ("http/a.rs", "use sqlx::query;", "SQL lives in `store`"),
        ("service/a.rs", "const Q: &str = \"SELECT id FROM devices\";", "SQL lives in `store`"),
        ("remote/a.rs", "const Q: &str = \"SELECT id FROM devices\";", "SQL lives in `store`"),
        ("remote/hooks/a.rs", "use sqlx::query;", "SQL lives in `store`"),
        ("service/a.rs", "const Q: &str = r#\"\n  DELETE FROM devices\"#;", "SQL lives in `store`"),
        ("http/a.rs", "use openssl::x509::X509;", "openssl lives in `pki`"),
        ("http/a.rs", "let tx = app.store.begin_write().await?;", "own the transactions"),
        ("http/a.rs", "#[expect(clippy::disallowed_methods)] fn f() {}", "composition root"),
        ("protocol/a.rs", "pub async fn read() {}", "protocol is pure"),
        ("catalog/a.rs", "fn f() { std::fs::read(\"x\"); }", "catalog is pure"),
        ("service/util.rs", "", "says nothing"),
        ("service/common/a.rs", "", "says nothing"),
        ("service/a.rs", "let tx = s.begin_write(); app.pusher.push(); tx.commit();", "inside a write transaction"),
        ("garage/a.rs", "", "no such room"),
    ] {
        let found = check(&BTreeMap::from([(PathBuf::from(path), text.to_owned())]));
        assert!(found.iter().any(|found| found.contains(fault)), "{path}: {text}: {found:?}");
    }
}

#[test]
fn the_check_lets_the_innocent_pass() {
    for (path, text) in [
        ("service/a.rs", "// crate::http and sqlx\n/* openssl /* nested */ begin_write */ fn f() {}"),
        (
            "http/a.rs",
            "/// Calls `begin_write` in `crate::cli`.\nfn f() { g(\"openssl \\\" sqlx\", 'a', b'\"', '\\''); }",
        ),
        ("http/a.rs", "fn f<'a>(x: &'a str) -> &'a str { \"Select one of the profiles\" }"),
        ("store/a.rs", "use crate::model::Id; #[cfg(test)] mod tests { use crate::service::App; fn f() { {} } }"),
        ("remote/nanomdm/a.rs", "use sqlx::query; const Q: &str = \"SELECT id FROM devices\";"),
        ("pki/a.rs", "use openssl::x509::X509; use super::key; use super::super::model;"),
        ("simulator/a.rs", "#[cfg(test)]\n#[allow(dead_code)]\npub(crate) fn f() { crate::service::f() } fn g() {}"),
        ("service/a.rs", "let tx = s.begin_write(); tx.commit(); app.pusher.push();"),
        ("service/a.rs", "fn f() { s.begin_write(); } fn g() { app.pusher.push(); tx.commit(); }"),
    ] {
        let found = check(&BTreeMap::from([(PathBuf::from(path), text.to_owned())]));
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
}

#[test]
fn modules_for_tests_are_left_out_wherever_their_file_is() {
    let text = "use crate::cli;".to_owned();
    let declaring = "#[cfg(test)]\npub(crate) mod fixtures;\n#[cfg(test)] mod tests;".to_owned();
    let files = BTreeMap::from([
        (PathBuf::from("store/mod.rs"), declaring.clone()),
        (PathBuf::from("store/fixtures.rs"), text.clone()),
        (PathBuf::from("store/tests/mod.rs"), text.clone()),
        (PathBuf::from("http/tls.rs"), declaring),
        (PathBuf::from("http/tls/fixtures.rs"), text.clone()),
    ]);
    assert_eq!(check(&files), [""; 0]);
    let not_declared = BTreeMap::from([(PathBuf::from("store/fixtures.rs"), text)]);
    assert_eq!(check(&not_declared).len(), 1);
}

/// Every Rust file under `root`, by its path from there.
fn sources(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// The faults of all files, a line each.
fn check(files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let tokens: BTreeMap<_, _> = files.iter().map(|(path, text)| (path, tokens(text))).collect();
    let mut for_tests = Vec::new();
    for (path, tokens) in &tokens {
        let (_, modules) = without_tests(tokens);
        let inner = module_directory(path);
        for_tests.extend(modules.into_iter().map(|name| inner.join(name)));
    }
    let mut found = Vec::new();
    for (path, tokens) in &tokens {
        if !for_tests.iter().any(|test| path.starts_with(test) || **path == test.with_extension("rs")) {
            let (tokens, _) = without_tests(tokens);
            let faults = check_file(path, &tokens);
            found.extend(faults.into_iter().map(|fault| format!("src/{}: {fault}", path.display())));
        }
    }
    found
}

fn check_file(path: &Path, tokens: &[Token]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let names = path.with_extension("");
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| SHAPELESS.contains(name)) {
        found.insert(format!("the name {name:?} says nothing of what is inside"));
    }
    // `lib.rs` and `main.rs` stand in no room.
    let Some(room) = room_of(path) else { return found };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        found.insert(format!("there is no such room as {room}"));
        return found;
    };
    for import in imports(path, tokens) {
        let is_room = ROOMS.iter().any(|(name, _)| *name == import);
        if is_room && import != room && !allowed.contains(&import.as_str()) {
            found.insert(format!("{room} may not import {import}"));
        }
    }
    for token in tokens {
        match token {
            Token::Word(word) => {
                for confined in CONFINED {
                    if confined.words.contains(&word.as_str())
                        && !confined.rooms.iter().any(|room| path.starts_with(room))
                    {
                        found.insert(format!("{word}: {}", confined.why));
                    }
                }
                if PURE.contains(&room) && IMPURE_WORDS.contains(&word.as_str()) {
                    found.insert(format!("{word}: {room} is pure"));
                }
            }
            Token::Text(text) if room != "store" && !path.starts_with(FOREIGN_SQL) && is_sql(text) => {
                found.insert(format!("{:?}: SQL lives in `store`", text.trim().chars().take(30).collect::<String>()));
            }
            _ => {}
        }
    }
    for path in IMPURE_PATHS.iter().filter(|_| PURE.contains(&room)) {
        if (0..tokens.len()).any(|start| follows(tokens, start, path)) {
            found.insert(format!("{}: {room} is pure", path.join("::")));
        }
    }
    if network_in_transaction(tokens) {
        found.insert("the network is awaited inside a write transaction".to_owned());
    }
    found
}

/// Whether the words of `path`, joined by `::`, stand at `start`.
fn follows(tokens: &[Token], start: usize, path: &[&str]) -> bool {
    let wanted = path.iter().enumerate().flat_map(|(index, word)| {
        let colons = if index == 0 { 0 } else { 2 };
        std::iter::repeat_n(Token::Sign(':'), colons).chain([Token::Word((*word).to_owned())])
    });
    wanted.enumerate().all(|(offset, token)| tokens.get(start + offset) == Some(&token))
}

fn is_sql(text: &str) -> bool {
    let starts =
        ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "CREATE TABLE", "ALTER TABLE", "PRAGMA ", "WITH "];
    starts.iter().any(|start| text.trim_start().starts_with(start))
}

/// Follows each `begin_write` to its `commit`, or to the next function.
fn network_in_transaction(tokens: &[Token]) -> bool {
    let mut is_open = false;
    for token in tokens {
        let Token::Word(word) = token else { continue };
        match word.as_str() {
            "begin_write" => is_open = true,
            "commit" | "rollback" | "fn" => is_open = false,
            word if is_open && NETWORK.contains(&word) => return true,
            _ => {}
        }
    }
    false
}

/// The rooms (or other items at the top of the crate) that a file names.
fn imports(path: &Path, tokens: &[Token]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let depth = module_directory(path).iter().count();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        index += 1;
        let Token::Word(word) = token else { continue };
        let is_top = match word.as_str() {
            "crate" | "muster" => true,
            "super" => {
                let mut ups = 1;
                while follows(tokens, index - 1, &["super", "super"]) {
                    ups += 1;
                    index += 3;
                }
                ups >= depth
            }
            _ => false,
        };
        if is_top && tokens.get(index..index + 2) == Some(&[Token::Sign(':'), Token::Sign(':')]) {
            found.extend(heads(tokens.get(index + 2..).unwrap_or_default()));
        }
    }
    found
}

/// The first names of what stands after `crate::`: one name, or those in braces.
fn heads(tokens: &[Token]) -> Vec<String> {
    match tokens.first() {
        Some(Token::Word(word)) => vec![word.clone()],
        Some(Token::Sign('{')) => {
            let (mut depth, mut at_start, mut found) = (0, false, Vec::new());
            for token in tokens {
                match token {
                    Token::Sign('{') => {
                        depth += 1;
                        at_start = depth == 1;
                    }
                    Token::Sign('}') => depth -= 1,
                    Token::Sign(',') => at_start = depth == 1,
                    Token::Word(word) if at_start => {
                        found.push(word.clone());
                        at_start = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

fn room_of(path: &Path) -> Option<&str> {
    let mut parts = path.iter();
    let room = parts.next()?.to_str()?;
    parts.next().map(|_| room)
}

/// Where the files of a module's own modules are: `store/mod.rs` has them in `store`, `http/tls.rs` in `http/tls`.
fn module_directory(path: &Path) -> PathBuf {
    if path.ends_with("mod.rs") { path.parent().unwrap().to_path_buf() } else { path.with_extension("") }
}

/// The tokens without the items under `#[cfg(test)]`, and the names of the modules among these that have files.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let mark = [
        Token::Sign('#'),
        Token::Sign('['),
        Token::Word("cfg".to_owned()),
        Token::Sign('('),
        Token::Word("test".to_owned()),
        Token::Sign(')'),
        Token::Sign(']'),
    ];
    let (mut rest, mut modules, mut index) = (Vec::new(), Vec::new(), 0);
    while index < tokens.len() {
        if !tokens[index..].starts_with(&mark) {
            rest.push(tokens[index].clone());
            index += 1;
            continue;
        }
        index += mark.len();
        let start = index;
        let (mut braces, mut others) = (0, 0);
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token {
                Token::Sign('{') => braces += 1,
                Token::Sign('}') => braces -= 1,
                Token::Sign('(' | '[') => others += 1,
                Token::Sign(')' | ']') => others -= 1,
                _ => {}
            }
            let is_end = matches!(token, Token::Sign(';' | '}')) && braces == 0 && others == 0;
            if is_end {
                break;
            }
        }
        let item = &tokens[start..index];
        let module = item.windows(3).find_map(|three| match three {
            [Token::Word(word), Token::Word(name), Token::Sign(';')] if word == "mod" => Some(name.clone()),
            _ => None,
        });
        modules.extend(module);
    }
    (rest, modules)
}

/// As much of Rust's lexical structure as is needed to tell code from comments and texts.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let (mut found, mut index) = (Vec::new(), 0);
    while index < chars.len() {
        let here = at(index);
        if here == '/' && at(index + 1) == '/' {
            while index < chars.len() && at(index) != '\n' {
                index += 1;
            }
        } else if here == '/' && at(index + 1) == '*' {
            let mut depth = 0;
            while index < chars.len() {
                match (at(index), at(index + 1)) {
                    ('/', '*') => (depth, index) = (depth + 1, index + 2),
                    ('*', '/') => (depth, index) = (depth - 1, index + 2),
                    _ => index += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        } else if here.is_alphabetic() || here == '_' {
            let start = index;
            while at(index).is_alphanumeric() || at(index) == '_' {
                index += 1;
            }
            let word: String = chars[start..index].iter().collect();
            let mut hashes = 0;
            while word.ends_with('r') && word.len() <= 2 && at(index + hashes) == '#' {
                hashes += 1;
            }
            let is_raw = word.ends_with('r') && word.len() <= 2 && at(index + hashes) == '"';
            if is_raw {
                let end: String = format!("\"{}", "#".repeat(hashes));
                let rest: String = chars[index + hashes + 1..].iter().collect();
                let inside = rest.split(&end).next().unwrap_or_default();
                index += hashes + 1 + inside.chars().count() + end.chars().count();
                found.push(Token::Text(inside.to_owned()));
            } else {
                found.push(Token::Word(word));
            }
        } else if here == '"' {
            let mut inside = String::new();
            index += 1;
            while index < chars.len() && at(index) != '"' {
                if at(index) == '\\' {
                    index += 1;
                }
                inside.push(at(index));
                index += 1;
            }
            index += 1;
            found.push(Token::Text(inside));
        } else if here == '\'' && (at(index + 1) == '\\' || at(index + 2) == '\'') {
            // A character; otherwise the quote begins a lifetime.
            index += if at(index + 1) == '\\' { 3 } else { 2 };
            while index < chars.len() && at(index) != '\'' {
                index += 1;
            }
            index += 1;
        } else {
            if !here.is_whitespace() {
                found.push(Token::Sign(here));
            }
            index += 1;
        }
    }
    found
}
