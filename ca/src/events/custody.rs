//! What is said of the cryptographic resources, by the room that keeps them.

use k8s_openapi::api::core::v1::ObjectReference;
use trellis_custody::Herald;

use super::{About, Events, Tone};

const ACTION: &str = "Keep";

pub struct Told(pub Events);

impl Herald for Told {
    fn say(&self, about: &ObjectReference, tone: trellis_custody::Tone, reason: &'static str, note: &str) {
        let tone = match tone {
            trellis_custody::Tone::Normal => Tone::Normal,
            trellis_custody::Tone::Warning => Tone::Warning,
        };
        self.0.say(&About(about.clone()), tone, reason, ACTION, note);
    }
}
