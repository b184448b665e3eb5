//! The admission webhook: it turns pods of labelled namespaces into meshed ones, refuses cryptographic
//! resources that nobody could meet, and keeps classical certificates out of namespaces that say so.
//!
//! What is injected, and into what, is decided by [`trellis_api::injection`]; here is what it takes to
//! be asked. Pods reach the webhook by two entries of the `MutatingWebhookConfiguration`: those of a
//! labelled namespace, and those that carry the label themselves.
//!
//! The entries say `failurePolicy: Fail`. With `Ignore`, pods that start while no injector answers would
//! run outside the mesh, in plaintext and for as long as they live, and nobody would be told; a pod that
//! is refused is created again by its controller seconds later. What must be able to start without the
//! injector is kept away from it by selectors: `kube-system` and the namespaces beside it, the control
//! plane's own namespace, everything without the label, and pods whose own label opts out.
//!
//! What is only looked at ([`spec`], [`enforce`]) has entries of its own in a
//! `ValidatingWebhookConfiguration`. The cryptographic kinds say `Ignore`: their definitions hold without the
//! injector, and the controller asks the same [`trellis_api::crypto`] again before it does anything. So do
//! namespaces that are to be warned. Those that are to be refused something say `Fail`.

#![forbid(unsafe_code)]

pub mod announce;
pub mod certificate;
pub mod certificates;
pub mod config;
pub mod enforce;
pub mod keeper;
pub mod metrics;
pub mod namespaces;
pub mod review;
pub mod serve;
pub mod serving;
pub mod spec;
pub mod store;
pub mod trust;
pub mod verdict;
pub mod webhook;
