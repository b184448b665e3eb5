//! Whether this process can do its work: named conditions, all of which must hold.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use ::http::StatusCode;
use tokio::sync::watch;

use crate::http::{Response, Routes};

type Conditions = BTreeMap<&'static str, Result<(), String>>;

/// The conditions of this process. Clones are the same conditions.
#[derive(Clone)]
pub struct Health(Arc<watch::Sender<Conditions>>);

impl Health {
    /// Nothing is ready until each of these conditions was set to `Ok`.
    pub fn new(conditions: &[&'static str]) -> Self {
        let unmet = conditions.iter().map(|name| (*name, Err("not yet".to_owned()))).collect();
        Self(Arc::new(watch::Sender::new(unmet)))
    }

    /// Sets one condition, known before or not. Changes are logged.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        self.0.send_if_modified(|conditions| {
            if conditions.get(name) == Some(&state) {
                return false;
            }
            match &state {
                Ok(()) => tracing::info!(condition = name, "condition met"),
                Err(reason) => tracing::warn!(condition = name, %reason, "condition not met"),
            }
            conditions.insert(name, state);
            true
        });
    }

    pub fn is_ready(&self) -> bool {
        self.0.borrow().values().all(Result::is_ok)
    }

    /// Waits until all conditions hold.
    pub async fn ready(&self) {
        let mut watch = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = watch.wait_for(|conditions| conditions.values().all(Result::is_ok)).await;
    }

    /// What is not met, and why.
    pub fn unmet(&self) -> Vec<(&'static str, String)> {
        let conditions = self.0.borrow();
        conditions
            .iter()
            .filter_map(|(name, state)| state.as_ref().err().map(|reason| (*name, reason.clone())))
            .collect()
    }

    /// `/ready`: 200, or 503 with a line for each condition that does not hold. `/live`: 200 for as long
    /// as this process answers at all; a condition that does not hold is no reason to restart it.
    pub fn routes(&self) -> Routes {
        let health = self.clone();
        Routes::new()
            .get("/ready", move || {
                let unmet = health.unmet();
                if unmet.is_empty() {
                    return Response::text(StatusCode::OK, "ready\n");
                }
                let mut lines = String::new();
                for (name, reason) in unmet {
                    // Writing to a String cannot fail.
                    let _ = writeln!(lines, "{name}: {reason}");
                }
                Response::text(StatusCode::SERVICE_UNAVAILABLE, lines)
            })
            .get("/live", || Response::text(StatusCode::OK, "live\n"))
    }
}
