//! One buffer per thread to read into, and one to gather in what is to be written. A connection has them only
//! inside one poll, so an idle connection holds no buffer at all, and nobody asks the allocator for one.

use std::cell::{Cell, RefCell};

/// As much as one socket read may take: four TLS records.
pub const SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's buffer. Borrowing it again from inside `read` is served by a fresh allocation.
pub fn with<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut buffer) => read(&mut buffer),
        Err(_) => read(&mut vec![0; SIZE]),
    })
}

/// The thread's buffer to gather in, if nobody has it; else an empty one.
pub fn take() -> Vec<u8> {
    SPARE.take()
}

/// What was taken, and is not needed any more.
pub fn put_back(mut buffer: Vec<u8>) {
    buffer.clear();
    let other = SPARE.take();
    let larger = if buffer.capacity() > other.capacity() { buffer } else { other };
    if larger.capacity() <= SIZE {
        SPARE.set(larger);
    }
}
