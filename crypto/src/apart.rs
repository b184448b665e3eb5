//! Work on a stack of its own. Libraries that keep keys and whole signatures on the stack, copy by copy, need more of
//! it than a thread of a server has, where to exceed it is the end of the process; and they leave there what is wiped
//! nowhere.

use std::thread;

use crate::key::KeyError;

/// More than the C library keeps of ended threads for the next ones (40 MiB): the stack goes back to the kernel, and
/// with it whatever lies there. Pages that nobody touches cost nothing.
const STACK: usize = 64 << 20;

/// The result of `work`, which is for operations that take far longer than to begin a thread.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, KeyError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("trellis-crypto".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|_| KeyError::Library("begin a thread"))?;
        thread.join().map_err(|_| KeyError::Library("end a thread as it should"))
    })
}
