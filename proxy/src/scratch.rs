//! One read buffer per thread. A connection borrows it only after its socket became readable and only
//! inside one poll, so an idle connection holds no buffer at all.

use std::cell::RefCell;

/// As much as one socket read may take: four TLS records.
pub const SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Lends the thread's buffer. Borrowing it again from inside `read` is served by a fresh allocation.
pub fn with<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut buffer) => read(&mut buffer),
        Err(_) => read(&mut vec![0; SIZE]),
    })
}
