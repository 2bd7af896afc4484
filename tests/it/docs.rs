//! What the documents point at is there, and what they tell people to type is run by somebody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use muster::config::Settings;

/// Every Markdown file of the project.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut open) = (Vec::new(), vec![root.join("docs")]);
    let is_markdown = |path: &Path| path.extension().is_some_and(|extension| extension == "md");
    found.extend(fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| is_markdown(path)));
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if is_markdown(&path) {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 5);
    found
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
        kept.map(|char| if char == ' ' { '-' } else { char }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let is_there = match anchor {
                None => path.exists(),
                Some(anchor) => fs::read_to_string(&path).is_ok_and(|text| anchors(&text).contains(anchor)),
            };
            if !is_there {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_eq!(dead, [""; 0]);
}

#[test]
fn what_the_program_refers_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["install", "push-certificate", "tls-and-proxies", "enroll-a-device", "backup", "settings"] {
        assert!(root.join(format!("docs/operate/{name}.md")).exists(), "{name}");
    }
}

/// A fenced block of a document.
struct Block {
    /// File and line.
    place: String,
    language: String,
    /// The comment in the line before it, without its marks; empty where there is none.
    mark: String,
    text: String,
}

/// All fenced blocks of all documents.
fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let mut before = "";
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => found.extend(open.take()),
                (Some(language), None) => {
                    let mark = before.strip_prefix("<!--").and_then(|mark| mark.strip_suffix("-->"));
                    open = Some(Block {
                        place: format!("{}:{}", document.display(), number + 1),
                        language: language.to_owned(),
                        mark: mark.unwrap_or_default().trim().to_owned(),
                        text: String::new(),
                    });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => before = line,
            }
            if line.is_empty() || open.is_some() {
                before = "";
            }
        }
        assert!(open.is_none(), "{}: a block without an end", document.display());
    }
    found
}

/// What is wrong with the mark of a block of commands.
fn fault(mark: &str, text: &str) -> Option<String> {
    // tests/interop/docs.py runs these.
    let run = ["run: again until ", "run: in the background until ", "run: refused with "];
    if mark == "run" || run.iter().any(|form| mark.strip_prefix(form).is_some_and(|rest| !rest.is_empty())) {
        return None;
    }
    if let Some(reason) = mark.strip_prefix("not run: ") {
        return reason.trim().is_empty().then(|| "no reason".to_owned());
    }
    let Some(file) = mark.strip_prefix("run by: ") else {
        return Some(format!("not marked as run, run by a file, or not run: {mark:?}"));
    };
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    let commands = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let missing = commands.filter(|command| !command.is_empty() && !script.contains(command)).collect::<Vec<_>>();
    (!missing.is_empty()).then(|| format!("{file} does not run {missing:?}"))
}

#[test]
fn every_command_is_run_or_says_why_not() {
    let (mut faults, mut run) = (Vec::new(), 0);
    for block in blocks() {
        match block.language.as_str() {
            "sh" => {
                faults.extend(fault(&block.mark, &block.text).map(|fault| format!("{}: {fault}", block.place)));
                run += usize::from(block.mark.starts_with("run"));
            }
            "bash" | "shell" | "console" | "zsh" => faults.push(format!("{}: use sh", block.place)),
            _ => {}
        }
    }
    assert_eq!(faults, [""; 0]);
    assert!(run > 30, "the search finds what it is for: {run}");
    for (mark, text, is_right) in [
        ("run", "ls", true),
        ("", "ls", false),
        ("run: ", "ls", false),
        ("run: again until", "ls", false),
        ("not run: ", "ls", false),
        ("not run: needs root", "ls", true),
        ("run by: .ci/run", "make test  # all\n", true),
        ("run by: .ci/run", "make test\nmake coffee", false),
        ("run by: .ci/nowhere", "make test", false),
    ] {
        assert_eq!(fault(mark, text).is_none(), is_right, "{mark}");
    }
}

#[test]
fn the_settings_that_the_documents_show_are_settings() {
    let mut seen = 0;
    for block in blocks().into_iter().filter(|block| block.language == "toml") {
        let mut text = block.text;
        if !text.contains("public_url = \"https://mdm.") {
            text.insert_str(0, "public_url = \"https://mdm.example.org\"\n");
        }
        // A proxy's header counts only where a proxy stands.
        if text.contains("[proxy]") && !text.contains("[devices]") {
            text.push_str("[devices]\ntls = \"behind_proxy\"\n");
        }
        if let Err(faults) = Settings::parse(Path::new("muster.toml"), &text, []) {
            panic!("{}: {faults}", block.place);
        }
        seen += 1;
    }
    assert!(seen > 5, "the search finds what it is for: {seen}");
}
