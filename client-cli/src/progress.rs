//! Progress bars on standard error. They hide themselves where that is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use protocol::Bytes;

const BYTES_TEMPLATE: &str = "{prefix:20!} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}";

/// A bar for `length` bytes under a name. `hidden` where the output is for a program.
pub(crate) fn byte_bar(length: Bytes, name: String, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(length.0), target);
    // The template is a constant; a test reads it.
    if let Ok(style) = ProgressStyle::with_template(BYTES_TEMPLATE) {
        bar.set_style(style);
    }
    bar.with_prefix(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_template_is_valid() {
        assert!(ProgressStyle::with_template(BYTES_TEMPLATE).is_ok());
    }

    #[test]
    fn a_bar_for_a_program_is_hidden() {
        assert!(byte_bar(Bytes(1), "x".into(), true).is_hidden());
    }
}
