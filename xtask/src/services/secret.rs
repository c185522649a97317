//! Passwords for the private services, so that other users of the machine cannot become administrators of our Postgres.

use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::Failure;

/// 128 random bits as hexadecimal digits, which need no escaping in an address.
pub(crate) fn generate() -> Result<String, Failure> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 16];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(|error| Failure::file("read", source, &error))?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Writes a file that only its owner may read, replacing an earlier one.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    written.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| Failure::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn secrets_differ_and_need_no_escaping() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn a_written_secret_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        write(&path, "a much longer first text").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
