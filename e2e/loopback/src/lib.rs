//! Real proxies, a real CA and real discovery as processes on loopback, and peers that behave as no
//! proxy of ours would.
#![forbid(unsafe_code)]

pub mod hbone;
pub mod load;
pub mod stage;
pub mod wire;
