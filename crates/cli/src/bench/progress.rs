//! Bars on standard error, for people at a terminal: nowhere else, and not beside JSON.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that disappears when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar with a title, up to `length` of whatever is counted.
    pub(crate) fn new(title: &'static str, length: u64, is_shown: bool) -> Self {
        // On no terminal it draws nothing by itself.
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent}% {msg}")
            .expect("the template is legal")
            .progress_chars("=> ");
        Self(ProgressBar::with_draw_target(Some(length), target).with_style(style).with_prefix(title))
    }

    /// Moves the bar.
    pub(crate) fn set(&self, position: u64, message: String) {
        self.0.set_message(message);
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Milliseconds, as a bar counts them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
