//! Buffers of a thread to read into, and one to gather in what is to be written. A connection has them only inside
//! one poll, unless it could not use up what it read: an idle connection holds no buffer at all, and nobody asks the
//! allocator for one.

use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
};

/// As much as one socket read may take: four TLS records.
pub const SIZE: usize = 64 * 1024;
/// Buffers that a thread keeps: one that is read into while another one is used up.
const KEPT: usize = 2;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer of the thread's, which it gets back.
pub struct Lent(Box<[u8]>);

/// Lends a buffer to read into.
pub fn lend() -> Lent {
    let kept = BUFFERS.with_borrow_mut(Vec::pop);
    Lent(kept.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // While the thread ends there is nowhere to put it.
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
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
