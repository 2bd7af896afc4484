/// Why another server's tables cannot be read. No text holds the password of the URL.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL names no database.
    #[error("{0}")]
    Url(String),
    /// The database cannot be reached, or does not let us in.
    #[error("the database of the other server cannot be used: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the database of the other server did not answer in time; run the import again when it is less busy")]
    TimedOut,
    /// There are no such tables.
    #[error("{0}")]
    NotNanomdm(String),
    /// It answered with something unexpected.
    #[error("the database of the other server answered with something unexpected: {0}")]
    Broken(String),
}

impl From<sqlx::Error> for SourceError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
                Self::Unreachable(error.to_string())
            }
            sqlx::Error::Database(told) => match told.code().as_deref() {
                // PostgreSQL: no permission; MySQL: the same for a table.
                Some("42501" | "42000") => {
                    Self::Unreachable(format!("{}; let the user read all tables", told.message()))
                }
                _ => Self::Broken(told.message().to_owned()),
            },
            _ => Self::Broken(error.to_string()),
        }
    }
}
