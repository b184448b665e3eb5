//! Compiles the command line again when a file of the embedded chart comes or goes.

fn main() {
    let chart = "../charts/trellis";
    let _ = std::io::Write::write_all(
        &mut std::io::stdout(),
        format!("cargo::rerun-if-changed={chart}\n").as_bytes(),
    );
}
