//! Logs, on standard error.

use std::{
    fmt, fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt as layer,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(text.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[derive(Debug, Error)]
pub enum LogError {
    #[error("log format {0:?} is unknown; use text or json")]
    Format(String),
    #[error(
        "log filter {filter:?} cannot be read: {reason}; use a level (off, error, warn, info, debug, trace) \
         or levels by target, such as info,trellis_proxy=debug"
    )]
    Filter { filter: String, reason: String },
    #[error("logging was started already in this process")]
    Started,
    #[error("logging has ended")]
    Ended,
}

/// How often a file with a filter is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// A filter is a line; whoever has put something else there is told so.
const LONGEST: usize = 4096;

/// Changes the filter of a running process.
#[derive(Clone)]
pub struct Reload(Arc<dyn Fn(Targets) -> Result<(), LogError> + Send + Sync>);

impl Reload {
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        (self.0)(parse(filter)?)
    }
}

/// Starts logging for the whole process; a second call is refused.
pub fn init(filter: &str, format: Format) -> Result<Reload, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let output = layer::layer::<Registry>().with_writer(io::stderr);
    let output = match format {
        Format::Text => output.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => output.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(output.with_filter(filter))
        .try_init()
        .map_err(|_| LogError::Started)?;
    Ok(Reload(Arc::new(move |targets| handle.reload(targets).map_err(|_| LogError::Ended))))
}

/// Has the filter in a file win over the usual one for as long as it is there. What cannot be read changes
/// nothing, and is said once.
pub async fn follow(reload: Reload, file: PathBuf, usual: String) {
    let mut last = Ok(None);
    loop {
        let found = read(&file);
        if found != last {
            let wished = found.clone().map(|filter| filter.unwrap_or_else(|| usual.clone()));
            let set = |filter: String| match reload.set(&filter) {
                Ok(()) => Ok(filter),
                Err(error) => Err(error.to_string()),
            };
            match wished.and_then(set) {
                Ok(filter) => tracing::info!(filter, "from here on this is logged"),
                Err(error) => {
                    tracing::warn!(file = %file.display(), error, "what is logged stays what it is");
                }
            }
            last = found;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What stands in the file; nothing where there is none.
fn read(file: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(file) {
        Ok(text) if text.len() > LONGEST => Err(format!("more than {LONGEST} bytes are no filter")),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// `Targets` rather than `EnvFilter`: no regular expressions to keep in memory.
fn parse(filter: &str) -> Result<Targets, LogError> {
    let wrong = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    // To `Targets` a word that is no level is a target with every level on: a typing error would flood.
    for part in filter.split(',').map(str::trim).filter(|part| !part.contains('=')) {
        if part.is_empty() || LevelFilter::from_str(part).is_err() {
            return Err(wrong(format!("{part:?} is not a level")));
        }
    }
    Targets::from_str(filter).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_wins_while_it_is_there_and_what_is_no_filter_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("filter");
        let set = Arc::new(Mutex::new(Vec::new()));
        let told = set.clone();
        let reload = Reload(Arc::new(move |filter| {
            told.lock().push(filter.to_string());
            Ok(())
        }));
        let following = tokio::spawn(follow(reload, file.clone(), "info".to_owned()));
        let now = async || {
            tokio::time::sleep(2 * LOOK).await;
            std::mem::take(&mut *set.lock())
        };
        // Nothing is set that is so already.
        assert_eq!(now().await, Vec::<String>::new());
        fs::write(&file, "debug\n").unwrap();
        assert_eq!(now().await, ["debug"]);
        assert_eq!(now().await, Vec::<String>::new());
        for wrong in ["loud", "", &"x".repeat(LONGEST + 1)] {
            fs::write(&file, wrong).unwrap();
            assert_eq!(now().await, Vec::<String>::new(), "{wrong:?}");
        }
        fs::write(&file, "warn,trellis_ca=trace").unwrap();
        assert_eq!(now().await, ["trellis_ca=trace,warn"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(now().await, ["info"]);
        following.abort();
    }
}
