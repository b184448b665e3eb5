//! How the proxy is linked: at rest most of what it weighs is its program, beside every application.
#![allow(clippy::print_stdout, reason = "that is how cargo is told")]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The loader reads all relocations at every start: packed they are a few kilobytes instead of half a
    // megabyte. Where glibc is not linked in, it has to be 2.36 or later.
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
