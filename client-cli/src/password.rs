//! Passwords: from standard input, or asked for without showing them.

use std::io::{BufRead, IsTerminal, Read, Write};

use protocol::rest::Password;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Failure, Outcome, while_doing};

/// Far more than a password may have; a file piped in by mistake is not read whole.
const LINE_MAX: u64 = 4096;

/// The first line of standard input.
pub(crate) fn from_stdin() -> Outcome<Password> {
    first_line(std::io::stdin().lock()).map(Password)
}

/// The first two lines of standard input: the present password and the new one.
pub(crate) fn two_from_stdin() -> Outcome<(Password, Password)> {
    two_lines(std::io::stdin().lock())
}

fn two_lines(mut input: impl BufRead) -> Outcome<(Password, Password)> {
    Ok((Password(line(&mut input, "first")?), Password(line(&mut input, "second")?)))
}

fn first_line(mut input: impl BufRead) -> Outcome<String> {
    line(&mut input, "first")
}

fn line(input: &mut impl BufRead, which: &str) -> Outcome<String> {
    let mut line = String::new();
    input.take(LINE_MAX).read_line(&mut line).map_err(while_doing("cannot read the password from standard input"))?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::Usage(format!("standard input has no password in its {which} line")));
    }
    Ok(line.to_owned())
}

/// Where a kit's passphrase may stand, for programs.
const PASSPHRASE_VARIABLE: &str = "SPILLWAY_KIT_PASSPHRASE";

/// A kit's passphrase: from the environment, or asked for.
pub(crate) fn kit_passphrase() -> Outcome<Password> {
    match std::env::var(PASSPHRASE_VARIABLE) {
        Ok(passphrase) => Ok(Password(passphrase)),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::Usage(format!("{PASSPHRASE_VARIABLE} is not valid UTF-8"))),
        Err(std::env::VarError::NotPresent) if !std::io::stdin().is_terminal() => {
            Err(Failure::Usage(format!("there is no terminal to ask for the kit's passphrase: give it in {PASSPHRASE_VARIABLE}")))
        }
        Err(std::env::VarError::NotPresent) => ask_once("Passphrase of the kit: ").map(Password),
    }
}

/// Asks on the terminal. With `twice`, for a new password, until both answers agree.
pub(crate) fn ask(prompt: &str, twice: bool) -> Outcome<Password> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask for the password: give it on standard input with --password-stdin".into()));
    }
    loop {
        let password = ask_once(prompt)?;
        if !twice || ask_once("Again: ")? == password {
            return Ok(Password(password));
        }
        eprintln!("The two are not the same; once more.");
    }
}

fn ask_once(prompt: &str) -> Outcome<String> {
    eprint!("{prompt}");
    // A prompt that cannot be shown does not keep the answer from being read.
    let _ = std::io::stderr().flush();
    let quiet = Quiet::begin()?;
    let line = read_hidden(std::io::stdin().lock().bytes());
    drop(quiet);
    eprintln!();
    line
}

/// The terminal without echo, and without signals from keys: an interrupt that ended the program here would leave the shell without echo, so the
/// key is read as a byte and acted on after the terminal is as it was.
struct Quiet {
    before: Termios,
}

impl Quiet {
    fn begin() -> Outcome<Self> {
        let failed = |error: rustix::io::Errno| Failure::Failed(format!("cannot hide the password: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nothing left to try if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}

const INTERRUPT: u8 = 3;
const END: u8 = 4;
const ERASE: [u8; 2] = [8, 127];
const ERASE_LINE: u8 = 21;

/// One line from raw keys, with the editing that a terminal would have done.
fn read_hidden(keys: impl Iterator<Item = std::io::Result<u8>>) -> Outcome<String> {
    let mut line: Vec<u8> = Vec::new();
    for key in keys {
        match key.map_err(while_doing("cannot read the password"))? {
            INTERRUPT => return Err(Failure::Interrupted),
            b'\r' | b'\n' | END => break,
            ERASE_LINE => line.clear(),
            key if ERASE.contains(&key) => {
                // A whole character: bytes of the form 10…… continue one.
                while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {}
            }
            _ if line.len() as u64 >= LINE_MAX => return Err(Failure::Usage(format!("a password has at most {LINE_MAX} bytes"))),
            key => line.push(key),
        }
    }
    String::from_utf8(line).map_err(|_| Failure::Usage("the password is not valid UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_standard_input_is_the_password() {
        for (input, password) in [("secret\n", "secret"), ("secret", "secret"), ("secret\r\nmore\n", "secret"), (" spaced \n", " spaced ")]
        {
            assert_eq!(first_line(input.as_bytes()).unwrap(), password);
        }
        for input in ["", "\n", "\r\n"] {
            assert_eq!(first_line(input.as_bytes()).unwrap_err().exit_code(), 2, "{input:?}");
        }
        assert!(first_line(&b"\xFF\xFE\n"[..]).is_err());
    }

    #[test]
    fn a_change_of_the_password_takes_two_lines() {
        let (current, new) = two_lines("old one\r\nnew one\nmore\n".as_bytes()).unwrap();
        assert_eq!((current.0.as_str(), new.0.as_str()), ("old one", "new one"));
        for (input, which) in [("", "first"), ("\nnew", "first"), ("old", "second"), ("old\n\n", "second")] {
            let failure = two_lines(input.as_bytes()).unwrap_err();
            assert!(failure.exit_code() == 2 && failure.to_string().contains(which), "{input:?}: {failure}");
        }
    }

    fn typed(keys: &str) -> Outcome<String> {
        read_hidden(keys.bytes().map(Ok))
    }

    #[test]
    fn hidden_typing_can_be_corrected_and_interrupted() {
        assert_eq!(typed("abc\rrest").unwrap(), "abc");
        assert_eq!(typed("ab\u{7f}c\n").unwrap(), "ac");
        assert_eq!(typed("é\u{8}e\n").unwrap(), "e", "erasing takes a whole character");
        assert_eq!(typed("\u{7f}\u{7f}a\n").unwrap(), "a");
        assert_eq!(typed("wrong\u{15}right\n").unwrap(), "right");
        assert_eq!(typed("abc\u{4}").unwrap(), "abc");
        assert!(matches!(typed("abc\u{3}"), Err(Failure::Interrupted)));
        assert_eq!(typed(&"x".repeat(5000)).unwrap_err().exit_code(), 2);
    }
}
