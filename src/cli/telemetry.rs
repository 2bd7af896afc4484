use std::io::{self, IsTerminal};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Logs from here on to the standard error, in the form and from the level that the settings say.
///
/// # Errors
/// If something logs already: a program does this once.
pub fn start(log: &Log) -> Result<(), TryInitError> {
    let levels: Targets = log.level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let layer = layer(log.format, io::stderr, io::stderr().is_terminal());
    Registry::default().with(layer.with_filter(levels)).try_init()
}

/// Writes records to what `output` makes; colors only for a person who looks on.
fn layer<S, W>(format: LogFormat, output: W, is_terminal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Pretty => fmt::layer().with_ansi(is_terminal).with_target(true).with_writer(output).boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            // The fields of the record on one level, so that a query need not know which part logged them.
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(output)
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a record of one request looks like.
    fn written(format: LogFormat) -> String {
        let memory = Memory::default();
        let output = memory.clone();
        let subscriber = Registry::default().with(layer(format, move || output.clone(), false));
        tracing::subscriber::with_default(subscriber, || {
            let _request = tracing::info_span!("request", request_id = "r-1").entered();
            tracing::info!(devices = 3, "woken");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(LogFormat::Json);
        assert_eq!(text.lines().count(), 1);
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["message"], "woken");
        assert_eq!(record["devices"], 3);
        assert_eq!(record["level"], "INFO");
        assert_eq!(record["span"]["request_id"], "r-1");
        assert!(record["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn pretty_is_a_line_without_colors_where_nobody_looks_on() {
        let text = written(LogFormat::Pretty);
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("INFO request{request_id=\"r-1\"}"), "{text}");
        assert!(text.contains("woken devices=3"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
