//! A connection that stops speaking HTTP, such as a WebSocket: from then on bytes are carried.

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use tracing::debug;

use super::io::{Far, FarEnd, Near, together};
use crate::{
    ledger::Flow,
    relay::{Begun, Relay},
    sealed::Metered,
};

/// Carries bytes between the two once both have left HTTP. `held` is given back when that is over.
pub fn carry(near: OnUpgrade, far: OnUpgrade, held: impl Send + 'static) {
    tokio::spawn(async move {
        let _held = held;
        let (near, far) = match tokio::try_join!(near, far) {
            Ok((near, far)) => (near, far),
            Err(error) => return debug!(%error, "no upgrade, although the application agreed"),
        };
        let (Some(near), Some((far, flow))) = (near_end(near), far_end(far)) else {
            return debug!("an upgraded connection is not ours");
        };
        // Once it is taken apart, nobody else counts what goes by.
        let relay = Relay::new(near, far, |outward, data: &bytes::Bytes| {
            if let Some(flow) = &flow {
                flow.add(outward, data.len());
            }
        });
        if let Err(error) = relay.await {
            debug!(%error, "upgraded connection broke");
        }
    });
}

fn near_end(upgraded: Upgraded) -> Option<Begun<Metered>> {
    let parts = upgraded.downcast::<Near>().ok()?;
    Some(parts.io.into_end(parts.read_buf))
}

fn far_end(upgraded: Upgraded) -> Option<(Begun<FarEnd>, Option<Arc<Flow>>)> {
    let parts = upgraded.downcast::<Far>().ok()?;
    let (unread, end, flow) = parts.io.into_end();
    Some((Begun::new(together(parts.read_buf, unread), end), flow))
}
