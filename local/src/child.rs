//! Processes that do not outlive the one that started them, however that one ends.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::Command,
};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// First argument of a program that shall become a child of itself.
const ASKED: &str = "__child";

/// A command that runs `program` and dies with this process. The running program must call
/// [`become_child_if_asked`] before anything else.
pub fn command(program: &OsStr) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ASKED).arg(getpid().as_raw_nonzero().to_string()).arg(program);
    Ok(command)
}

/// Becomes the child that [`command`] asked for; returns at once when this process was started by
/// anybody else. The error is what kept the child from starting.
pub fn become_child_if_asked() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ASKED)) {
        return Ok(());
    }
    match become_child(arguments) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

fn become_child(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Infallible> {
    let wrong = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
    let parent = arguments
        .next()
        .and_then(|pid| pid.to_str()?.parse().ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| wrong("no parent's process id"))?;
    let program = arguments.next().ok_or_else(|| wrong("no program"))?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have gone before the signal was set.
    if getppid() != Some(parent) {
        return Err(io::Error::other("the process that started this one has ended"));
    }
    Err(Command::new(program).args(arguments).exec())
}
