//! Generates the gRPC types from `proto/` with a compiler written in Rust, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/trellis/ca/v1/ca.proto",
        "proto/trellis/discovery/v1/discovery.proto",
        "proto/trellis/discovery/v1/route.proto",
        "proto/spiffe/workload.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // It holds a private key.
    tonic_prost_build::configure().skip_debug(["X509SVID"]).compile_fds(descriptors)?;
    Ok(())
}
