use std::fmt;
use std::path::PathBuf;

/// Where a setting was found, so that its fault can be corrected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file; the line counts from 1, and is missing where nothing stands in the file to point at.
    File {
        /// The file, as it was named to the program.
        file: PathBuf,
        /// The line of the setting.
        line: Option<usize>,
    },
    /// In an environment variable of this name.
    Environment(String),
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// The setting's full name, such as `devices.listen`; empty if the fault belongs to none (a syntax error).
    pub key: String,
    /// What was found, and why it will not do. Never the value of a secret.
    pub problem: String,
    /// What would do.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { file, line: Some(line) } => write!(f, "{}:{line}: ", file.display())?,
            Origin::File { file, line: None } => write!(f, "{}: ", file.display())?,
            Origin::Environment(name) => write!(f, "{name}: ")?,
        }
        if matches!(self.origin, Origin::File { .. }) && !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; expected {}", self.problem, self.expected)
    }
}

/// All that is wrong with the settings, in the order of the file, then the environment. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
