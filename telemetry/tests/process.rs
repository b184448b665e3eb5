//! What belongs to a whole process, tried in one of its own: this test's executable, run again.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result};
use trellis_telemetry::{
    log::{self, Format, LogError},
    shutdown,
};

#[test]
fn json_logs_are_filtered_and_the_filter_changes_live() -> Result<()> {
    let output = again("logs_for_the_test_above").output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut messages = Vec::new();
    for line in String::from_utf8(output.stderr)?.lines() {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        messages.push((
            line["level"].as_str().unwrap_or("").to_owned(),
            line["message"].clone(),
            line["peer"].clone(),
        ));
    }
    let expected = [("INFO", "shown", "a \"peer\"\nof two lines"), ("DEBUG", "shown after the change", "b")];
    let expected: Vec<_> = expected.map(|(l, m, p)| (l.to_owned(), m.into(), p.into())).into();
    assert_eq!(messages, expected);
    Ok(())
}

#[test]
#[ignore = "run by json_logs_are_filtered_and_the_filter_changes_live"]
fn logs_for_the_test_above() -> Result<()> {
    let reload = log::init("info,noisy=off", Format::Json)?;
    tracing::info!(peer = "a \"peer\"\nof two lines", "shown");
    tracing::debug!("not shown");
    tracing::error!(target: "noisy", "not shown");
    reload.set("debug")?;
    tracing::debug!(peer = "b", "shown after the change");
    assert!(matches!(reload.set("nonsense"), Err(LogError::Filter { .. })));
    assert!(matches!(log::init("info", Format::Text), Err(LogError::Started)));
    Ok(())
}

#[test]
fn sigterm_and_sigint_ask_to_stop() -> Result<()> {
    for signal in ["-TERM", "-INT"] {
        let mut child = again("waits_for_a_signal").stdout(Stdio::piped()).spawn()?;
        // Kept open until the end: the child may have more to say.
        let _output = wait_for_line(&mut child, "listening")?;
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status()?.success());
        assert!(child.wait()?.success(), "{signal}");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "run by sigterm_and_sigint_ask_to_stop"]
async fn waits_for_a_signal() -> Result<()> {
    let stop = shutdown::signal()?;
    assert!(!*stop.borrow());
    println!("\nlistening");
    shutdown::requested(stop.clone()).await;
    // Who asks later gets the same answer.
    shutdown::requested(stop).await;
    Ok(())
}

#[test]
fn what_is_no_filter_is_refused_with_a_remedy() {
    for filter in ["", "inof", "info,", "trellis_proxy=loud", "inof,trellis=debug"] {
        let error = log::init(filter, Format::Text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(&format!("{filter:?}")) && error.contains("debug"), "{filter:?}: {error}");
    }
    assert!(matches!("yaml".parse::<Format>(), Err(LogError::Format(text)) if text == "yaml"));
    assert_eq!("json".parse::<Format>().ok(), Some(Format::Json));
}

fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running test has an executable"));
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}

fn wait_for_line(child: &mut Child, wanted: &str) -> Result<BufReader<ChildStdout>> {
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    while output.read_line(&mut line)? > 0 {
        if line.trim_end() == wanted {
            return Ok(output);
        }
        line.clear();
    }
    anyhow::bail!("the process ended without saying {wanted:?}")
}
