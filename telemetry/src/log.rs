//! Logs, on standard error.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    sync::Arc,
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
