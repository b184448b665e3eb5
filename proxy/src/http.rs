//! HTTP between an application and the world: a client's connection is served here, and each of its
//! requests is routed, balanced and forwarded by itself, on connections that clients share.

mod answer;
mod attempt;
mod body;
mod context;
mod expect;
mod forward;
mod io;
mod message;
mod mirror;
mod pace;
mod rest;
mod serve;
mod settings;
mod stall;
mod upgrade;
mod upstream;
mod websocket;

pub use answer::Failure;
pub use body::End;
pub use context::{Context, Front};
pub use io::{Far, FarEnd, Near, Sealed};
pub use pace::Pace;
pub use serve::{http1, http2};
pub use upstream::Upstreams;
