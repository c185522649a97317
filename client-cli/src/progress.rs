//! Progress bars on standard error. They hide themselves where that is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use protocol::Bytes;

const BYTES_TEMPLATE: &str = "{prefix:20!} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}";

const TRANSFER_TEMPLATE: &str = "{prefix:20!} {wide_bar} {bytes:>10}/{total_bytes:10} {msg}";

/// A bar for a swarm of `total` bytes, to be added to the others of a run.
pub(crate) fn transfer_bar(total: Bytes, name: String) -> ProgressBar {
    styled(ProgressBar::new(total.0), TRANSFER_TEMPLATE).with_prefix(name)
}

/// A bar for `length` bytes under a name. `hidden` where the output is for a program.
pub(crate) fn byte_bar(length: Bytes, name: String, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    styled(ProgressBar::with_draw_target(Some(length.0), target), BYTES_TEMPLATE).with_prefix(name)
}

/// The templates are constants; a test reads them. What is given up, as by Ctrl-C, leaves no half bar behind.
fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    let bar = bar.with_finish(ProgressFinish::AndClear);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [BYTES_TEMPLATE, TRANSFER_TEMPLATE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_bar_for_a_program_is_hidden() {
        assert!(byte_bar(Bytes(1), "x".into(), true).is_hidden());
    }
}
