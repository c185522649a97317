//! What a path on disk is as an edition: which files, in which order, how long.

use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::Bytes;
use protocol::manifest::{FILES_MAX, PATH_MAX, is_safe_path};
use protocol::rest::UploadFile;

use crate::failure::{Failure, Outcome, while_doing};

/// The longest label that the server takes, in characters.
const LABEL_CHARS_MAX: usize = 64;

/// An edition as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub directory: bool,
    /// Sorted by path.
    pub files: Vec<LocalFile>,
    pub length: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFile {
    pub source: PathBuf,
    pub entry: UploadFile,
}

/// Reads the layout of a file, or of a directory with everything below it.
///
/// Refused: symbolic links (what they point to may be another thing on the receiver's disk, or nothing), devices and sockets, names that cannot be
/// written everywhere, and editions without a single byte. Empty directories are left out: an edition is made of files.
pub(crate) fn read_layout(path: &Path) -> Outcome<Layout> {
    let found = fs::symlink_metadata(path).map_err(while_doing(format_args!("cannot publish {}", path.display())))?;
    refuse_special(path, &found)?;
    let mut files = Vec::new();
    if found.is_dir() {
        walk(path, "", &mut files)?;
        files.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    } else {
        let name = path.file_name().and_then(|name| name.to_str());
        files.push(local_file(path.to_owned(), name.map(str::to_owned), &found)?);
    }
    let length = Bytes(files.iter().map(|file| file.entry.length.0).sum());
    if length.0 == 0 {
        let what = if found.is_dir() { "has no file with a byte in it" } else { "is empty" };
        return Err(Failure::Failed(format!("{} {what}: an edition must have at least one byte", path.display())));
    }
    Ok(Layout { directory: found.is_dir(), files, length })
}

/// The label of an edition without one of its own: the file's name without its extension, or the directory's name.
pub(crate) fn default_label(path: &Path) -> Outcome<String> {
    let name = if path.is_dir() {
        path.canonicalize().ok().and_then(|path| path.file_name().map(ToOwned::to_owned))
    } else {
        path.file_stem().map(ToOwned::to_owned)
    };
    let label = name.and_then(|name| name.to_str().map(str::to_owned));
    label
        .filter(|label| !label.is_empty() && label.chars().count() <= LABEL_CHARS_MAX)
        .ok_or_else(|| Failure::Usage(format!("the name of {} cannot be a label: give --label", path.display())))
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<LocalFile>) -> Outcome<()> {
    let describe = || format!("cannot read the directory {}", folder.display());
    for entry in fs::read_dir(folder).map_err(while_doing(describe()))? {
        let entry = entry.map_err(while_doing(describe()))?;
        let path = entry.path();
        let name = entry.file_name().to_str().map(|name| format!("{prefix}{name}"));
        // Of the entry itself: a symbolic link is not followed.
        let found = entry.metadata().map_err(while_doing(format_args!("cannot read {}", path.display())))?;
        refuse_special(&path, &found)?;
        if found.is_dir() {
            let prefix = name.ok_or_else(|| unusable_name(&path))?;
            // Bounds the depth before the files below are checked.
            if prefix.len() > PATH_MAX {
                return Err(unusable_name(&path));
            }
            walk(&path, &format!("{prefix}/"), files)?;
        } else {
            files.push(local_file(path, name, &found)?);
        }
        if files.len() > FILES_MAX {
            return Err(Failure::Failed(format!(
                "there are more than {FILES_MAX} files, the most in one edition: publish an archive of them"
            )));
        }
    }
    Ok(())
}

fn local_file(source: PathBuf, name: Option<String>, found: &Metadata) -> Outcome<LocalFile> {
    let path = name.filter(|name| is_safe_path(name)).ok_or_else(|| unusable_name(&source))?;
    let executable = found.permissions().mode() & 0o111 != 0;
    Ok(LocalFile { source, entry: UploadFile { path, length: Bytes(found.len()), executable } })
}

fn refuse_special(path: &Path, found: &Metadata) -> Outcome<()> {
    if found.is_symlink() {
        return Err(Failure::Failed(format!("{} is a symbolic link: publish what it points to, or remove it", path.display())));
    }
    if !found.is_dir() && !found.is_file() {
        return Err(Failure::Failed(format!("{} is neither a file nor a directory", path.display())));
    }
    Ok(())
}

fn unusable_name(path: &Path) -> Failure {
    Failure::Failed(format!(
        "the name of {:?} cannot be written on every system: it must be UTF-8, at most {PATH_MAX} bytes, without ':', '\\' and control characters",
        path.display().to_string()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_directory_becomes_its_files_in_the_order_of_their_paths() {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in [("b", "22"), ("a.b/x", "1"), ("a/z/deep", "333"), ("a/empty", ""), ("run.sh", "#!")] {
            write(root.path(), path, bytes.as_bytes());
        }
        fs::create_dir(root.path().join("nothing")).unwrap();
        fs::set_permissions(root.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let layout = read_layout(root.path()).unwrap();
        assert!(layout.directory);
        assert_eq!(layout.length, Bytes(8));
        let entries: Vec<_> =
            layout.files.iter().map(|file| (file.entry.path.as_str(), file.entry.length.0, file.entry.executable)).collect();
        assert_eq!(entries, [("a.b/x", 1, false), ("a/empty", 0, false), ("a/z/deep", 3, false), ("b", 2, false), ("run.sh", 2, true)]);
        assert_eq!(layout.files[2].source, root.path().join("a/z/deep"));
    }

    #[test]
    fn a_file_is_an_edition_of_one_file_with_its_own_name() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "film.en.bin", b"abc");
        let path = root.path().join("film.en.bin");
        let layout = read_layout(&path).unwrap();
        assert!(!layout.directory);
        assert_eq!(layout.files[0].entry.path, "film.en.bin");
        assert_eq!(default_label(&path).unwrap(), "film.en");
        assert!(default_label(&root.path().join("film.en.bin/..")).is_err());
    }

    #[test]
    fn symbolic_links_are_refused_wherever_they_stand() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "real/file", b"abc");
        std::os::unix::fs::symlink("file", root.path().join("real/link")).unwrap();
        std::os::unix::fs::symlink("real", root.path().join("top")).unwrap();
        for path in ["real", "top", "real/link"] {
            let error = read_layout(&root.path().join(path)).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{path}: {error}");
        }
    }

    #[test]
    fn nothing_to_send_is_refused_before_the_server_is_asked() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "empty", b"");
        write(root.path(), "folder/empty", b"");
        for (path, reason) in [("empty", "is empty"), ("folder", "no file with a byte"), ("missing", "cannot publish")] {
            let error = read_layout(&root.path().join(path)).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains(reason), "{path}: {error}");
        }
    }

    #[test]
    fn names_that_other_systems_cannot_write_are_refused() {
        for name in [&b"a\xFF"[..], b"a:b", b"a\\b", b"a\nb"] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join(OsStr::from_bytes(name)), b"x").unwrap();
            let error = read_layout(root.path()).unwrap_err().to_string();
            assert!(error.contains("cannot be written on every system") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_socket_is_not_a_file() {
        let root = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        assert!(read_layout(root.path()).unwrap_err().to_string().contains("neither a file nor a directory"));
    }
}
