//! What a Trellis process says about itself: metrics (one registry, two encodings), logs, health and
//! the small HTTP server that shows them.

#![forbid(unsafe_code)]

pub mod health;
pub mod http;
pub mod log;
pub mod otlp;
pub mod shutdown;

mod family;
mod instrument;
mod prometheus;
mod registry;

pub use family::Family;
pub use instrument::{Counter, Gauge, Histogram};
pub use registry::{FamilySnapshot, Kind, Registry, Sample, Value};
