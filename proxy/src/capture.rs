//! The rules that send a pod's TCP through its proxy, and the step that writes them. They stand in a
//! table of our own in the pod's network namespace and are replaced as a whole, so that writing them
//! twice leaves them as they were.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use trellis_api::{
    annotations::Ports,
    names::{INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, PROXY_UID, READY_PORT, TUNNEL_PORT},
};

#[derive(Debug, Default)]
pub struct Rules {
    pub skip_inbound: Ports,
    pub skip_outbound: Ports,
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("cannot start `{program}`: {source}; the capture image must contain it")]
    Start { program: String, source: io::Error },
    #[error(
        "`{program}` refused the rules: {message}; the capture step needs user 0 with NET_ADMIN in the \
         pod's network namespace and a kernel with nf_tables"
    )]
    Refused { program: String, message: String },
}

impl Rules {
    /// The rules as `nft -f` reads them.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Declaring the table before deleting it makes the deletion succeed on a first run as well.
        let _ = write!(
            out,
            "table inet trellis\n\
             delete table inet trellis\n\
             table inet trellis {{\n\
             \tchain outbound {{\n\
             \t\ttype nat hook output priority -100; policy accept;\n\
             \t\tmeta skuid {PROXY_UID} accept\n\
             \t\tfib daddr type local accept\n"
        );
        skip(&mut out, &self.skip_outbound);
        let _ = write!(
            out,
            "\t\tmeta l4proto tcp redirect to :{OUTBOUND_PORT}\n\
             \t}}\n\
             \tchain inbound {{\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tiifname \"lo\" accept\n\
             \t\ttcp dport {{ {TUNNEL_PORT}, {METRICS_PORT}, {READY_PORT} }} accept\n"
        );
        skip(&mut out, &self.skip_inbound);
        let _ = write!(out, "\t\tmeta l4proto tcp redirect to :{INBOUND_PORT}\n\t}}\n}}\n");
        out
    }

    /// Writes the rules in the network namespace that this process is in.
    pub fn apply(&self, program: &str) -> Result<(), CaptureError> {
        let start = |source| CaptureError::Start { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.render().as_bytes()).map_err(start)?;
        }
        let output = child.wait_with_output().map_err(start)?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(CaptureError::Refused { program: program.to_owned(), message })
    }
}

fn skip(out: &mut String, ports: &Ports) {
    if !ports.is_empty() {
        let _ = writeln!(out, "\t\ttcp dport {{ {} }} accept", ports.to_nft());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_ports_stand_before_the_redirect() {
        let rules =
            Rules { skip_inbound: "9000-9010".parse().unwrap(), skip_outbound: "25,3306".parse().unwrap() };
        let text = rules.render();
        let (outbound, inbound) = text.split_once("chain inbound").unwrap();
        let position = |part: &str, wanted: &str| part.find(wanted).unwrap_or_else(|| panic!("{wanted}"));
        assert!(
            position(outbound, "tcp dport { 25, 3306 } accept") < position(outbound, "redirect to :15001")
        );
        assert!(
            position(inbound, "tcp dport { 9000-9010 } accept") < position(inbound, "redirect to :15006")
        );
    }

    #[test]
    fn the_proxys_own_traffic_and_the_pods_own_addresses_are_left_alone() {
        let text = Rules::default().render();
        let before = text.split("redirect to :15001").next().unwrap();
        assert!(before.contains("meta skuid 1337 accept"));
        assert!(before.contains("fib daddr type local accept"));
        assert!(text.contains("tcp dport { 15008, 15020, 15021 } accept"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Rules::default().apply("no-such-nft").unwrap_err();
        assert!(error.to_string().contains("no-such-nft"), "{error}");
    }
}
