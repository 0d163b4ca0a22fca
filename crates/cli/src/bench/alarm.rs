//! Waiting to the microsecond: tokio's own timer goes by milliseconds, and that error would be in every latency of an
//! open loop.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the operating system.
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// # Errors
    /// When the process may open no more files. Must be called within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(deprecated, reason = "unsound for types that lie about their descriptor; the replacement is unsafe")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits until `at`, and not at all when that is past.
    pub(crate) async fn until(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let time = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }),
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &time).expect("the timer is open and the time legal");
        loop {
            let mut guard = self.0.readable().await.expect("the runtime outlives what runs on it");
            // Reading takes the expiry, so that the next wait does not find this one.
            if guard.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?)).is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_waits_as_long_as_it_is_told_each_time() {
        let alarm = Alarm::new().unwrap();
        let start = Instant::now();
        for millis in [0, 3, 3, 7] {
            let at = start + Duration::from_millis(millis);
            alarm.until(at).await;
            assert!(Instant::now() >= at);
        }
        // Given up before it rings, and set anew: the first setting does not ring in the second.
        tokio::select! {
            biased;
            () = alarm.until(Instant::now() + Duration::from_millis(1)) => unreachable!(),
            () = std::future::ready(()) => {}
        }
        let at = Instant::now() + Duration::from_millis(5);
        alarm.until(at).await;
        assert!(Instant::now() >= at);
    }
}
