//! A schedule that is kept to the microsecond, and in which whoever is late learns how late.

use std::{io, time::Duration};

use rustix::{
    io::Errno,
    thread::{clock_nanosleep_absolute, set_current_timer_slack},
    time::{ClockId, Timespec},
};

/// When one thread shall act.
pub struct Pace {
    next: Duration,
    period: Duration,
}

impl Pace {
    /// For the calling thread: at `first`, as [`crate::clock::now`] tells it, and every `period` after it.
    pub fn new(first: Duration, period: Duration) -> io::Result<Self> {
        // Unasked, the kernel may let a thread sleep 50 microseconds longer, to wake two at once.
        set_current_timer_slack(std::num::NonZeroU64::new(1))?;
        Ok(Self { next: first, period })
    }

    /// Waits for the next time and returns it; at once when it has passed.
    pub fn wait(&mut self) -> io::Result<Duration> {
        let meant = self.next;
        let until = Timespec {
            tv_sec: i64::try_from(meant.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(meant.subsec_nanos()),
        };
        while let Err(error) = clock_nanosleep_absolute(ClockId::Monotonic, &until) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        self.next += self.period;
        Ok(meant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_late_comer_gets_every_time_that_was_meant() {
        let period = Duration::from_micros(100);
        let first = clock::now().saturating_sub(period * 5);
        let mut pace = Pace::new(first, period).unwrap();
        for number in 0..20 {
            let meant = pace.wait().unwrap();
            assert_eq!(meant, first + period * number);
            assert!(meant <= clock::now());
        }
    }
}
