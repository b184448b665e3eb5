//! The two clocks that measuring needs. Neither has anything to do with the time of day.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since some point in the past, the same for every process of this machine.
pub fn now() -> Duration {
    read(ClockId::Monotonic)
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanoseconds)
}
