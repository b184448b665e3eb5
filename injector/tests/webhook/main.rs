//! The webhook as an API server sees it: real TLS, real AdmissionReviews.
#![allow(clippy::unwrap_used, clippy::panic)]

mod certificates;
mod pods;
mod running;
mod specs;
