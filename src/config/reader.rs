use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::nearest::nearest;
use super::value::{Base, Raw, Value};

/// A setting as documented: its name in its section, the text about it, and its default or an example.
pub(super) struct Key {
    pub name: &'static str,
    pub about: &'static [&'static str],
    pub preset: Preset,
}

/// What stands in the written file for a setting, as TOML.
#[derive(Clone, Copy)]
pub(super) enum Preset {
    /// The value that holds where none is given.
    Default(&'static str),
    /// No value holds where none is given; this one shows the form.
    Example(&'static str),
    /// A value must be given; this one shows the form.
    Required(&'static str),
}

impl Preset {
    pub(super) const fn toml(self) -> &'static str {
        match self {
            Self::Default(text) | Self::Example(text) | Self::Required(text) => text,
        }
    }
}

/// A table of the file; the one with an empty path is the file's top.
pub(super) struct Section {
    pub path: &'static str,
    pub about: &'static [&'static str],
    pub keys: &'static [Key],
}

/// Gives out the values of the file and of the environment, and collects the faults.
pub(super) struct Reader {
    file: PathBuf,
    base: Base,
    found: BTreeMap<String, (Raw, Origin)>,
    faulty: BTreeSet<String>,
    faults: Vec<Fault>,
    /// Whether the file was TOML throughout. If not, what is missing may have been lost with the broken lines.
    whole: bool,
}

impl Reader {
    /// Reads `text`, then what `environment` sets over it; notes what is not TOML or unknown.
    pub(super) fn new(
        file: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        sections: &[&Section],
    ) -> Self {
        let directory = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let base = Base { data: directory.clone(), directory };
        let mut reader = Self {
            file: file.to_path_buf(),
            base,
            found: BTreeMap::new(),
            faulty: BTreeSet::new(),
            faults: Vec::new(),
            whole: true,
        };
        reader.read_file(text, sections);
        reader.read_environment(environment, sections);
        reader
    }

    /// The value of a setting: the environment's, else the file's, else the default.
    pub(super) fn get<T: Value>(&mut self, section: &str, key: &Key) -> T {
        let path = join(section, key.name);
        let (raw, origin) = match (self.found.get(&path), key.preset) {
            (Some(found), _) => found.clone(),
            (None, Preset::Default(text)) => (literal(text), self.here(None)),
            (None, Preset::Example(_)) => return T::stand_in(),
            (None, Preset::Required(example)) => {
                if self.whole {
                    self.note(self.here(None), &path, "is missing", &format!("a value, such as {example}"));
                }
                return T::stand_in();
            }
        };
        T::read(&raw, &self.base).unwrap_or_else(|problem| {
            self.note(origin, &path, &problem.problem, &problem.expected);
            T::stand_in()
        })
    }

    /// From now on, paths below the data directory start there.
    pub(super) fn set_data_directory(&mut self, data: &Path) {
        self.base.data = data.to_path_buf();
    }

    /// Notes a fault of `key`, at the place where it was set; or, if it was not set, at the file.
    ///
    /// Does nothing if one of the keys in `about` has a fault already: the second would only follow from the first.
    pub(super) fn fault(&mut self, key: &str, about: &[&str], problem: &str, expected: &str) {
        if about.iter().chain([&key]).any(|key| self.faulty.contains(*key)) {
            return;
        }
        let origin = match self.found.get(key) {
            Some((_, origin)) => origin.clone(),
            None if self.whole => self.here(None),
            None => return,
        };
        self.note(origin, key, problem, expected);
    }

    /// Notes a fault if `value` is out of `range`; both are shown in the words of `show`.
    pub(super) fn within<T: PartialOrd + Copy>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
        show: fn(T) -> String,
    ) {
        if !range.contains(&value) {
            let expected = format!("{} to {}", show(*range.start()), show(*range.end()));
            self.fault(key, &[], &format!("{} is out of range", show(value)), &expected);
        }
    }

    /// All faults: of the file in its order, then of the environment.
    pub(super) fn into_faults(mut self) -> Vec<Fault> {
        self.faults.sort_by_key(|fault| match &fault.origin {
            Origin::File { line, .. } => (0, line.unwrap_or(0)),
            Origin::Environment(_) => (1, 0),
        });
        self.faults
    }

    fn here(&self, line: Option<usize>) -> Origin {
        Origin::File { file: self.file.clone(), line }
    }

    fn note(&mut self, origin: Origin, key: &str, problem: &str, expected: &str) {
        self.faulty.insert(key.to_owned());
        let (key, problem, expected) = (key.to_owned(), problem.to_owned(), expected.to_owned());
        self.faults.push(Fault { origin, key, problem, expected });
    }

    fn read_file(&mut self, text: &str, sections: &[&Section]) {
        let line = |at: usize| Some(text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = self.here(error.span().and_then(|span| line(span.start)));
            let message = error.message().replace('\n', ", ");
            self.note(origin, "", &format!("is no TOML: {message}"), "what https://toml.io describes");
        }
        self.whole = errors.is_empty();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let origin = self.here(line(key.span().start));
            let section = sections.iter().find(|section| !section.path.is_empty() && section.path == name);
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(inner)) => {
                    for (key, value) in inner {
                        let path = join(section.path, key.get_ref());
                        self.add(path, value.get_ref(), self.here(line(key.span().start)), sections);
                    }
                }
                (Some(section), other) => {
                    let (problem, expected) = (format!("is {}", other.type_str()), format!("a table, [{name}]"));
                    self.note(origin, section.path, &problem, &expected);
                }
                (None, DeValue::Table(_)) => {
                    let known = sections.iter().map(|section| section.path).filter(|path| !path.is_empty());
                    let expected = match nearest(name, known) {
                        Some(near) => format!("a known one; the nearest is [{near}]"),
                        None => "a known one".to_owned(),
                    };
                    self.note(origin, name, "there is no such section", &expected);
                }
                (None, value) => self.add(name.to_owned(), value, origin, sections),
            }
        }
    }

    fn add(&mut self, path: String, value: &DeValue<'_>, origin: Origin, sections: &[&Section]) {
        if all_keys(sections).any(|known| known == path) {
            self.found.insert(path, (raw(value), origin));
        } else {
            let expected = match nearest(&path, all_keys(sections)) {
                Some(near) => format!("a known one; the nearest is {near}"),
                None => "a known one".to_owned(),
            };
            self.note(origin, &path, "there is no such setting", &expected);
        }
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>, sections: &[&Section]) {
        let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| is_ours(name)).collect();
        variables.sort();
        for (name, text) in variables {
            let origin = Origin::Environment(name.clone());
            if let Some(path) = all_keys(sections).find(|path| variable(path) == name) {
                // An empty variable is what a compose file makes of one that is not set.
                if !text.is_empty() {
                    self.found.insert(path, (Raw::Plain(text), origin));
                }
            } else {
                let expected = match nearest(&name, all_keys(sections).map(|path| variable(&path))) {
                    Some(near) => format!("a known one; the nearest is {near}"),
                    None => "a known one".to_owned(),
                };
                self.note(origin, &name, "there is no such setting", &expected);
            }
        }
    }
}

/// The environment variable of a setting: `devices.listen` is `MUSTER_DEVICES_LISTEN`.
pub(super) fn variable(path: &str) -> String {
    format!("MUSTER_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// `devices.listen` from `devices` and `listen`.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Whether a variable is meant as a setting. Kubernetes sets `MUSTER_SERVICE_HOST`, `MUSTER_PORT_8443_TCP` and the
/// like for every pod beside a service named `muster`; tests and the program itself have some of their own.
fn is_ours(name: &str) -> bool {
    let others = ["MUSTER_TEST_", "MUSTER_BENCH_", "MUSTER_SERVICE_", "MUSTER_PORT_"];
    let own = ["MUSTER_CONFIG", "MUSTER_MASTER_KEY", "MUSTER_PORT"];
    name.starts_with("MUSTER_") && !own.contains(&name) && !others.iter().any(|start| name.starts_with(start))
}

fn all_keys(sections: &[&Section]) -> impl Iterator<Item = String> {
    sections.iter().flat_map(|section| section.keys.iter().map(|key| join(section.path, key.name)))
}

/// Reads one value written as TOML, as the presets are.
fn literal(text: &str) -> Raw {
    DeValue::parse(text).map_or(Raw::Other("broken preset"), |value| raw(value.get_ref()))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.as_ref().to_owned()),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other("number too large"), Raw::Integer)
        }
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        other => Raw::Other(other.type_str()),
    }
}
