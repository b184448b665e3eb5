//! Other trust domains: our bundle served to them, theirs fetched, and what members are told of them. Each
//! domain is believed by its own anchors alone, and the last good bundle stays in use for as long as its
//! endpoint is away.

mod endpoint;
mod fetch;
mod fetcher;
mod held;
mod partner;
mod schedule;
mod status;

use std::time::Duration;

pub use self::{
    endpoint::{Endpoint, Shown},
    fetch::WebRoots,
    fetcher::{Fetched, Fetcher, Metrics},
    held::{Held, held_bundles, merge},
    partner::{as_it_is, partners},
    status::{condition, statuses},
};

/// The longest time between two fetches of one bundle, whatever its hint.
pub const SELDOM: Duration = Duration::from_secs(24 * 60 * 60);
/// Where a bundle gives no hint.
const USUAL: Duration = Duration::from_secs(5 * 60);
/// A new anchor is published for this many times the hint before certificates are issued from it, so that
/// others have it by then, even if one of their fetches failed.
pub const ADVANCE: u32 = 3;
